// A reader's correction: the right class, boxes where the finding is, and why; sent with the picture as it was given.

import { useState } from "preact/hooks";

import type { CorrectedBox, Correction, Feedback } from "../contract";
import { json } from "../server";
import { Progress, useWork } from "./progress";

interface FeedbackProps {
  /** The picture as it was sent; null where it cannot be sent alone. */
  image: File | null;
  task: string;
  classes: string[];
  said: string;
  model: string;
  boxes: CorrectedBox[];
  onBoxes: (boxes: CorrectedBox[]) => void;
  rows: number;
  columns: number;
}

const SIDES = ["x", "y", "width", "height"] as const;

export function FeedbackForm(props: FeedbackProps) {
  const { image, task, classes, said, model, boxes, onBoxes } = props;
  const [label, setLabel] = useState<string | null>(null);
  const [reason, setReason] = useState("");
  const [stored, setStored] = useState<Feedback | null>(null);
  const work = useWork();
  const empty = label === null && boxes.length === 0;

  const change = (place: number, change: Partial<CorrectedBox>) =>
    onBoxes(boxes.map((box, each) => (each === place ? { ...box, ...change } : box)));
  const middle = () => {
    const [width, height] = [Math.round(props.columns / 4), Math.round(props.rows / 4)];
    const [x, y] = [Math.round((props.columns - width) / 2), Math.round((props.rows - height) / 2)];
    onBoxes([...boxes, { name: "finding", x, y, width, height }]);
  };
  const send = (event: SubmitEvent) => {
    event.preventDefault();
    if (!image || empty || !reason.trim()) {
      return;
    }
    const correction: Correction = { task, label, boxes, reason: reason.trim(), said, model };
    const form = new FormData();
    form.append("image", image, image.name);
    form.append("correction", JSON.stringify(correction));
    work.run(async (asked) => {
      const kept = await json<Feedback>("v1/feedback", { ...asked, method: "POST", form });
      setStored(kept);
      setLabel(null);
      setReason("");
      onBoxes([]);
      return `The correction is stored as ${kept.id}.`;
    }, "Storing the correction");
  };

  return (
    <details class="card feedback">
      <summary>Correct the answer</summary>
      {image === null ? (
        <p class="note">A picture inside a zip cannot be corrected: send the picture itself.</p>
      ) : (
        <form onSubmit={send}>
          <fieldset class="labels">
            <legend>This picture is</legend>
            {classes.map((name) => (
              <label>
                <input type="radio" name="label" checked={label === name} onChange={() => setLabel(name)} />
                {name}
                {name === said && <span> (as called)</span>}
              </label>
            ))}
            <label>
              <input type="radio" name="label" checked={label === null} onChange={() => setLabel(null)} />
              not judged, boxes only
            </label>
          </fieldset>
          <fieldset class="boxes">
            <legend>Where the finding is</legend>
            <p class="note">Draw with the tool “Box”, or add a box here and type its place.</p>
            {boxes.map((box, place) => (
              <div class="box-row" role="group" aria-label={`Box ${place + 1}`}>
                <label class="field">
                  What
                  <input
                    value={box.name}
                    required
                    maxLength={64}
                    onInput={(event) => change(place, { name: event.currentTarget.value })}
                  />
                </label>
                {SIDES.map((side) => (
                  <label class="field">
                    {side}
                    <input
                      type="number"
                      min={side === "width" || side === "height" ? 1 : 0}
                      max={side === "x" || side === "width" ? props.columns : props.rows}
                      step="any"
                      required
                      value={box[side]}
                      onInput={(event) => change(place, { [side]: event.currentTarget.valueAsNumber || 0 })}
                    />
                  </label>
                ))}
                <button
                  type="button"
                  aria-label={`Remove box ${place + 1}`}
                  onClick={() => onBoxes(boxes.filter((_, each) => each !== place))}
                >
                  ×
                </button>
              </div>
            ))}
            <button type="button" onClick={middle}>
              Add a box
            </button>
          </fieldset>
          <label class="field">
            Why (name no patient: it is stored as it stands)
            <textarea
              required
              rows={2}
              maxLength={2000}
              value={reason}
              onInput={(event) => setReason(event.currentTarget.value)}
            />
          </label>
          <button type="submit" class="primary" disabled={empty || work.doing !== null}>
            Send the correction
          </button>
          {empty && <p class="note">Choose a class or draw a box first.</p>}
        </form>
      )}
      <Progress work={work} />
      {stored && (
        <p class="stored">
          Stored {new Date(stored.time).toLocaleString()} as <code>{stored.id}</code>
          {stored.who && ` by ${stored.who}`}: {stored.label ?? "no class"}, {stored.boxes.length} boxes.
        </p>
      )}
    </details>
  );
}
