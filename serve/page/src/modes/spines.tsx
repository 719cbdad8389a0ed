// Spines: a volume in; the vertebral bodies, the grades of the discs and the hotspots of each through its slices out.

import { useEffect, useState } from "preact/hooks";

import type { DiscResult, Job, Models, SpineAnswer } from "../contract";
import { Card } from "../panels/card";
import { Drop } from "../panels/drop";
import { type Chosen, Grades, taskWords } from "../panels/grades";
import { Reliability } from "../panels/members";
import { Progress, useWork } from "../panels/progress";
import { Warnings } from "../panels/verdict";
import { type Picture, fetchVolume } from "../pixels";
import { Refused, json, pause } from "../server";
import { type Layer, fetchMap } from "../viewer/evidence";
import type { Mark } from "../viewer/marks";
import { Reader } from "../viewer/reader";

const POLL = 1000;
/** A body is outlined on slices this near to its middle, mm: about half its width. */
const REACH = 18;

export function Spines({ models }: { models: Models }) {
  const [files, setFiles] = useState<File[]>([]);
  const [picture, setPicture] = useState<Picture | null>(null);
  const [slice, setSlice] = useState(0);
  const [explain, setExplain] = useState("saliency");
  const [answer, setAnswer] = useState<SpineAnswer | null>(null);
  const [chosen, setChosen] = useState<Chosen | null>(null);
  const work = useWork();
  const disc = chosen && answer ? answer.discs[chosen.disc] : undefined;
  const layers = useHotspots(disc, chosen?.task ?? null);

  const take = (given: File[]) => {
    setFiles(given);
    setPicture(null);
    setAnswer(null);
    setChosen(null);
    work.run(async (asked) => {
      const volume = await fetchVolume(given, asked);
      setPicture(volume);
      setSlice(Math.floor(volume.slices / 2));
      return `A volume of ${volume.slices} slices is ready to be read.`;
    }, "Decoding the volume");
  };
  const read = () =>
    work.run(async (asked, tell) => {
      const form = new FormData();
      files.forEach((file) => form.append("files", file, file.name));
      const query = explain ? `?explain=${explain}` : "";
      setAnswer(null);
      setChosen(null);
      let job = await json<Job>(`v1/spines${query}`, { ...asked, method: "POST", form });
      while (job.status === "waiting" || job.status === "running") {
        tell({ words: job.what || "Waiting for a turn", done: job.done, total: job.total });
        await pause(POLL, asked.signal);
        job = await json<Job>(job.href, asked);
      }
      if (job.problem || !job.spine) {
        throw new Refused(job.problem ?? { type: "about:blank", title: "The job has no answer", status: 0 });
      }
      setAnswer(job.spine);
      const graded = job.spine.discs.filter((each) => Object.keys(each.grades).length).length;
      return `${job.spine.bodies.length} bodies found, ${graded} discs graded, ${job.spine.warnings.length} warnings.`;
    }, "Sending the volume");
  const choose = (next: Chosen) => {
    setChosen(next);
    const placed = answer?.discs[next.disc]?.placement?.slices;
    if (placed?.length) {
      setSlice(Math.round(placed[Math.floor(placed.length / 2)]!));
    }
  };

  return (
    <div class="mode spines">
      <section class="rail" aria-label="Spine">
        <Drop
          title="Drop a spine"
          hint="or pick a DICOM series, a zip of it, one NIfTI or MetaImage file"
          files={files}
          multiple
          onFiles={take}
        />
        <label class="field">
          Evidence
          <select value={explain} onChange={(event) => setExplain(event.currentTarget.value)}>
            <option value="saliency">Saliency</option>
            <option value="hotspots">Hotspots, averaged (slow)</option>
            <option value="">none (faster)</option>
          </select>
        </label>
        <button type="button" class="primary" disabled={!picture || work.doing !== null} onClick={read}>
          Read the spine
        </button>
        <Progress work={work} />
        {answer && (
          <Card title="Bodies">
            <ul class="bodies">
              {answer.bodies.map((body) => (
                <li>
                  <button type="button" onClick={() => setSlice(Math.round(body.slice))}>
                    <b>{body.level}</b>
                    <span>slice {Math.round(body.slice) + 1}</span>
                    {body.score !== null && (
                      <span>
                        <i class="unseen">score</i> {body.score.toFixed(2)}
                      </span>
                    )}
                  </button>
                </li>
              ))}
            </ul>
          </Card>
        )}
      </section>
      <Reader
        key={files.map((file) => file.name).join()}
        shown={[
          {
            key: "volume",
            picture,
            title: picture ? `Sagittal${disc ? ` · ${disc.level} ${taskWords(chosen!.task)}` : ""}` : "",
            label: `Sagittal slice ${slice + 1}${disc ? `, evidence for ${disc.level} ${taskWords(chosen!.task)}` : ""}`,
            layers: layers.filter((_, place) => place === nearest(disc?.placement?.slices ?? [], slice)),
            marks: answer ? outlines(answer, slice, disc) : [],
            note: files.length ? "The volume is not here yet." : "Drop a sagittal series of a spine to begin.",
          },
        ]}
        slice={slice}
        onSlice={setSlice}
      />
      <section class="answer" aria-label="Answer">
        {answer ? (
          <>
            <Warnings warnings={answer.warnings} nameOf={(index) => answer.discs[index]?.level ?? ""} />
            <Grades discs={answer.discs} tasks={models.spines!.tasks} chosen={chosen} onChoose={choose} />
            <Card title="What read it" kind="members">
              <ul>
                {models.members
                  .filter((member) => member.serves === "spines")
                  .map((member) => (
                    <li>
                      <h3>
                        {member.name} <span>{member.family.replaceAll("_", " ")}</span>
                      </h3>
                      <Reliability member={member} bodyPart={null} />
                    </li>
                  ))}
              </ul>
            </Card>
            <p class="note hash">
              {answer.model.slice(0, 12)}
              {answer.request_id && `, request ${answer.request_id}`}
            </p>
          </>
        ) : (
          <p class="placeholder">Six grades of each of six discs stand here once the spine is read.</p>
        )}
      </section>
    </div>
  );
}

/** The bodies that reach this slice, and the chosen disc's frame. */
function outlines(answer: SpineAnswer, slice: number, disc: DiscResult | undefined): Mark[] {
  const reach = REACH / answer.volume.spacing_mm[0];
  const bodies = answer.bodies.filter((body) => Math.abs(body.slice - slice) <= reach);
  const marks: Mark[] = bodies.map(({ level, corners }) => ({ kind: "body", name: level, corners }));
  const placed = disc?.placement;
  if (placed && nearest(placed.slices, slice) >= 0) {
    const [a, b, c, d, e, f] = placed.matrix;
    const at = (x: number, y: number): [number, number] => [a * x + c * y + e, b * x + d * y + f];
    const { rows, columns } = placed;
    marks.push({ kind: "area", name: disc!.level, corners: [at(0, 0), at(columns, 0), at(columns, rows), at(0, rows)] });
  }
  return marks;
}

/**
 * Which picture of a disc belongs to a slice of the volume: pictures lie at even distances, which are not the volume's.
 * Returns −1 beyond the first and the last.
 */
function nearest(slices: number[], slice: number): number {
  const step = Math.abs((slices[1] ?? 0) - (slices[0] ?? 0));
  const distances = slices.map((each) => Math.abs(each - slice));
  const least = Math.min(...distances);
  return least <= Math.max(0.5, step / 2) ? distances.indexOf(least) : -1;
}

/** The maps of one grade of a disc, in the order of its placement. */
function useHotspots(disc: DiscResult | undefined, task: string | null): Layer[] {
  const [layers, setLayers] = useState<Layer[]>([]);
  useEffect(() => {
    setLayers([]);
    const placed = disc?.placement;
    const hrefs = (task && disc?.grades[task]?.hotspots) || [];
    const stop = new AbortController();
    if (placed) {
      const { matrix } = placed;
      Promise.all(
        hrefs.map(async (href) => ({ href, matrix, image: await fetchMap(href, stop.signal) })),
      ).then(setLayers, () => undefined); // kept for a day: without them the grades are still whole
    }
    return () => stop.abort();
  }, [disc, task]);
  return layers;
}
