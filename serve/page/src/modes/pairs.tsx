// A pair: one place of a body before and after, side by side in the same window and framing, and what changed.

import { useState } from "preact/hooks";

import type { Models, PairAnswer } from "../contract";
import { Drop } from "../panels/drop";
import { Members } from "../panels/members";
import { Progress, useWork } from "../panels/progress";
import { Verdict, Warnings, percent } from "../panels/verdict";
import { type Picture, fetchPicture } from "../pixels";
import { json } from "../server";
import { Reader } from "../viewer/reader";

const SIDES = ["before", "after"] as const;
type Side = (typeof SIDES)[number];
const TITLES: Record<Side, string> = { before: "Before", after: "After" };

export function Pairs({ models }: { models: Models }) {
  const [files, setFiles] = useState<Partial<Record<Side, File>>>({});
  const [pictures, setPictures] = useState<Partial<Record<Side, Picture>>>({});
  const [answer, setAnswer] = useState<PairAnswer | null>(null);
  const work = useWork();
  const classes = models.pairs!.classes;
  const members = models.members.filter((member) => member.serves === "pairs");
  const complete = files.before !== undefined && files.after !== undefined;

  const take = (given: Partial<Record<Side, File>>) => {
    const next = { ...files, ...given };
    setFiles(next);
    setAnswer(null);
    // A task stops the one before, whose picture may be missing still.
    const wanted = SIDES.filter((side) => next[side] && (side in given || !pictures[side]));
    setPictures((known) => ({ ...known, ...Object.fromEntries(wanted.map((side) => [side, undefined])) }));
    work.run(async (asked) => {
      for (const side of wanted) {
        const picture = await fetchPicture(next[side]!, asked);
        setPictures((known) => ({ ...known, [side]: picture }));
      }
      return `${wanted.join(" and ")} ready.`;
    }, "Decoding");
  };
  const compare = () =>
    work.run(async (asked) => {
      const form = new FormData();
      SIDES.forEach((side) => form.append(side, files[side]!, files[side]!.name));
      const given = await json<PairAnswer>("v1/pairs", { ...asked, method: "POST", form });
      setAnswer(given);
      return `${given.pair.label}, probability ${percent(given.pair.probabilities[given.pair.label])}, ${given.warnings.length} warnings.`;
    }, "Comparing");

  return (
    <div class="mode">
      <section class="rail" aria-label="Pair">
        {SIDES.map((side) => (
          <Drop
            title={TITLES[side]}
            hint={side === "before" ? "Drop or pick the earlier picture" : "Drop or pick the later picture"}
            files={files[side] ? [files[side]!] : []}
            onFiles={([file]) => take({ [side]: file! })}
          />
        ))}
        <button
          type="button"
          disabled={!complete}
          onClick={() => {
            setFiles({ before: files.after, after: files.before });
            setPictures({ before: pictures.after, after: pictures.before });
            setAnswer(null);
          }}
        >
          Swap
        </button>
        <button type="button" class="primary" disabled={!complete || work.doing !== null} onClick={compare}>
          Compare
        </button>
        <Progress work={work} />
      </section>
      <Reader
        shown={SIDES.map((side) => ({
          key: side,
          picture: pictures[side] ?? null,
          title: `${TITLES[side]}${files[side] ? ` · ${files[side]!.name}` : ""}`,
          label: `${TITLES[side]}: ${files[side]?.name ?? ""}`,
          layers: [],
          marks: [],
          note: files[side] ? "The picture is not here yet." : TITLES[side],
        }))}
      />
      <section class="answer" aria-label="Answer">
        {answer ? (
          <>
            <Warnings warnings={answer.warnings} nameOf={(index) => TITLES[SIDES[index] ?? "before"].toLowerCase()} />
            <Verdict of="Change" {...answer.pair} classes={classes} calibrated={answer.model.calibrated} />
            <Members
              of="Before calibration"
              votes={answer.members}
              parts={{}}
              members={members}
              classes={classes}
              bodyPart={null}
            />
            <p class="note hash">
              {answer.model.name} {answer.model.hash.slice(0, 12)}
              {answer.request_id && `, request ${answer.request_id}`}
            </p>
          </>
        ) : (
          <p class="placeholder">What changed stands here once the pair is compared.</p>
        )}
      </section>
    </div>
  );
}
