// Radiographs: the views of a study in, the ensemble's answer with its reasons out, and a reader's correction.

import { useEffect, useMemo, useState } from "preact/hooks";

import type { CorrectedBox, Models, StudyAnswer, ViewResult } from "../contract";
import { Drop, isZip } from "../panels/drop";
import { FeedbackForm } from "../panels/feedback";
import { Members } from "../panels/members";
import { Progress, useWork } from "../panels/progress";
import { Verdict, Warnings, percent, watched } from "../panels/verdict";
import { type Picture, fetchPicture } from "../pixels";
import { type Asked, json } from "../server";
import { type Layer, fetchMap, overBox } from "../viewer/evidence";
import { type Mark, boxMark } from "../viewer/marks";
import { Reader } from "../viewer/reader";
import { Thumbnail } from "../viewer/thumbnail";

/** As `mskray.explain.methods.METHODS` has them. */
export const METHODS: [string, string][] = [
  ["grad_cam", "Grad-CAM"],
  ["guided_backprop", "Guided backpropagation"],
  ["saliency", "Saliency"],
];

export function Studies({ models }: { models: Models }) {
  const [files, setFiles] = useState<File[]>([]);
  const [zipped, setZipped] = useState(false);
  const [pictures, setPictures] = useState<Record<number, Picture>>({});
  const [answer, setAnswer] = useState<StudyAnswer | null>(null);
  const [open, setOpen] = useState(0);
  const [bodyPart, setBodyPart] = useState("");
  const [method, setMethod] = useState("grad_cam");
  const [corrections, setCorrections] = useState<Record<number, CorrectedBox[]>>({});
  const work = useWork();
  const members = models.members.filter((member) => member.serves === "studies");
  const parts = [...new Set(members.flatMap((member) => member.body_parts))].sort();
  const classes = models.ensemble!.classes;
  const positive = watched(classes);
  const places = zipped ? (answer?.views.map((view) => view.index) ?? []) : files.map((_, place) => place);
  const result = answer?.views.find((view) => view.index === open);
  const { layers, method: shownMethod } = useLayers(result);
  const member = useChoice(layers.map((layer) => layer.member));
  const picture = pictures[open] ?? null;
  const boxes = corrections[open] ?? [];

  const load = async (given: File[], zip: boolean, wanted: number[], asked: Asked) => {
    for (const place of wanted) {
      const decoded = await fetchPicture(zip ? given[0]! : given[place]!, asked, zip ? place : 0);
      setPictures((known) => ({ ...known, [place]: decoded }));
    }
  };
  const take = (given: File[]) => {
    setFiles(given);
    setPictures({});
    setAnswer(null);
    setOpen(0);
    setCorrections({});
    work.run(async (asked) => {
      const zips = await Promise.all(given.map(isZip));
      if (zips.includes(true) && given.length > 1) {
        setFiles([]);
        throw new Error("A zip holds a whole study: give it alone, or its pictures.");
      }
      setZipped(zips[0]!);
      if (!zips[0]) {
        await load(given, false, [...given.keys()], asked);
      }
      return `${given.length} files are ready to be read.`;
    }, "Decoding the pictures");
  };
  const read = () =>
    work.run(async (asked) => {
      const form = new FormData();
      files.forEach((file) => form.append("views", file, file.name));
      if (bodyPart) {
        form.append("body_part", bodyPart);
      }
      const query = method ? `?explain=${method}` : "";
      const given = await json<StudyAnswer>(`v1/studies${query}`, { ...asked, method: "POST", form });
      setAnswer(given);
      const indices = given.views.map((view) => view.index);
      setOpen((now) => (indices.includes(now) ? now : (indices[0] ?? 0)));
      const { label, probabilities } = given.study;
      await load(files, zipped, indices.filter((place) => !(place in pictures)), asked);
      return `${label}, probability ${percent(probabilities[positive ?? label])}, ${given.warnings.length} warnings.`;
    }, "Reading the study");

  const nameOf = (index: number) =>
    answer?.views.find((view) => view.index === index)?.name ?? files[index]?.name ?? `view ${index + 1}`;
  const areas: Mark[] = (result?.boxes ?? []).map((box) => boxMark("area", box, `${box.name.replaceAll("_", " ")} (${box.member})`));
  const corrected: Mark[] = boxes.map((box) => boxMark("corrected", box, box.name));
  const round = (value: number) => Math.round(value * 10) / 10;
  const shownLayers = layers.filter((layer) => layer.member === member.chosen);

  return (
    <div class="mode">
      <section class="rail" aria-label="Study">
        <Drop title="Drop a study" hint="or pick its views: DICOM, PNG, JPEG, TIFF, or a zip" files={files} multiple onFiles={take} />
        <label class="field">
          Body part
          <select value={bodyPart} onChange={(event) => setBodyPart(event.currentTarget.value)}>
            <option value="">as the files say</option>
            {parts.map((part) => (
              <option value={part}>{part}</option>
            ))}
          </select>
        </label>
        <label class="field">
          Evidence
          <select value={method} onChange={(event) => setMethod(event.currentTarget.value)}>
            {METHODS.map(([name, words]) => (
              <option value={name}>{words}</option>
            ))}
            <option value="">none (faster)</option>
          </select>
        </label>
        <button type="button" class="primary" disabled={!files.length || work.doing !== null} onClick={read}>
          Read the study
        </button>
        <Progress work={work} />
        {places.length > 0 && (
          <ul class="thumbnails" aria-label="Views">
            {places.map((place) => {
              const view = answer?.views.find((each) => each.index === place);
              const lost = answer?.unreadable.find((each) => each.index === place);
              return (
                <li>
                  <button type="button" aria-current={place === open} onClick={() => setOpen(place)}>
                    <Thumbnail picture={pictures[place] ?? null} />
                    <span class="name">{nameOf(place)}</span>
                    {view && positive && <span>{percent(view.probabilities[positive])}</span>}
                    {lost && <span class="lost">{lost.reason}</span>}
                  </button>
                </li>
              );
            })}
          </ul>
        )}
      </section>
      <Reader
        key={files.map((file) => file.name).join()}
        shown={[
          {
            key: "view",
            picture,
            title: places.length ? nameOf(open) : "",
            label: `${nameOf(open)}${result?.body_part ? `, ${result.body_part}` : ""}${areas.length ? `, ${areas.length} key areas` : ""}`,
            layers: shownLayers,
            marks: [...areas, ...corrected],
            note: files.length ? "The picture is not here yet." : "Drop the views of a study to begin.",
          },
        ]}
        onView={(step) => {
          const at = places.indexOf(open) + step;
          setOpen(places[Math.min(Math.max(at, 0), places.length - 1)] ?? open);
        }}
        onBox={
          answer && !zipped
            ? (box) => {
                const [x, y, width, height] = [round(box.x), round(box.y), round(box.width), round(box.height)];
                setCorrections({ ...corrections, [open]: [...boxes, { name: "finding", x, y, width, height }] });
              }
            : undefined
        }
      />
      <section class="answer" aria-label="Answer">
        {answer ? (
          <>
            <Warnings warnings={answer.warnings} nameOf={nameOf} />
            <Verdict
              of={answer.study.views === 1 ? "Study, 1 view" : `Study, mean of ${answer.study.views} views`}
              {...answer.study}
              classes={classes}
              calibrated={answer.model.calibrated}
            />
            {layers.length > 0 && (
              <section class="card" aria-label="Evidence">
                <label class="field">
                  Evidence of {shownMethod}, member
                  <select value={member.chosen} onChange={(event) => member.choose(event.currentTarget.value)}>
                    {member.names.map((name) => (
                      <option>{name}</option>
                    ))}
                  </select>
                </label>
                <p class="scale" aria-hidden="true">
                  <span>none</span>
                  <span>most in this picture</span>
                </p>
              </section>
            )}
            {result && (
              <Members
                of={`${nameOf(open)}: before calibration`}
                votes={result.members}
                parts={result.parts}
                members={members}
                classes={classes}
                bodyPart={result.body_part}
              />
            )}
            {result && (
              <FeedbackForm
                key={`${open}`}
                image={zipped ? null : (files[open] ?? null)}
                task={answer.model.task}
                classes={classes}
                said={answer.study.label}
                model={answer.model.hash}
                boxes={boxes}
                onBoxes={(next) => setCorrections({ ...corrections, [open]: next })}
                rows={result.rows}
                columns={result.columns}
              />
            )}
            <p class="note hash">
              {answer.model.name} {answer.model.hash.slice(0, 12)}
              {answer.request_id && `, request ${answer.request_id}`}
            </p>
          </>
        ) : (
          <p class="placeholder">What the ensemble says stands here once the study is read.</p>
        )}
      </section>
    </div>
  );
}

/** The maps of a view, each fetched once it is looked at. */
function useLayers(view: ViewResult | undefined): { layers: (Layer & { member: string })[]; method: string } {
  const [layers, setLayers] = useState<(Layer & { member: string })[]>([]);
  useEffect(() => {
    setLayers([]);
    const stop = new AbortController();
    for (const overlay of view?.overlays ?? []) {
      const { href, member } = overlay;
      if (href) {
        fetchMap(href, stop.signal)
          .then((image) => setLayers((now) => [...now, { href, member, image, matrix: overBox(overlay, image) }]))
          .catch(() => undefined); // kept for a day: without it the answer is still whole
      }
    }
    return () => stop.abort();
  }, [view]);
  const method = view?.overlays[0]?.method ?? "";
  return { layers, method: METHODS.find(([name]) => name === method)?.[1] ?? method };
}

function useChoice(given: string[]): { names: string[]; chosen: string; choose: (name: string) => void } {
  const [wanted, choose] = useState("");
  const names = useMemo(() => [...new Set(given)].sort(), [given.join()]);
  return { names, chosen: names.includes(wanted) ? wanted : (names[0] ?? ""), choose };
}
