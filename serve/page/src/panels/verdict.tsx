// What the ensemble says: the class called, its probability against the threshold, and why to doubt it.

import type { Doubt, Probabilities } from "../contract";
import { Card } from "./card";

interface VerdictProps {
  /** What the answer is about, such as "Study". */
  of: string;
  label: string;
  classes: string[];
  probabilities: Probabilities;
  threshold: number | null;
  calibrated: boolean;
}

export function percent(share: number | undefined, digits = 0): string {
  return share === undefined ? "–" : `${(share * 100).toFixed(digits)} %`;
}

/** The class whose probability a bar shows: of two the second, which the threshold is about. */
export function watched(classes: string[]): string | null {
  return classes.length === 2 ? classes[1]! : null;
}

export function Verdict(props: VerdictProps) {
  const { label, classes, probabilities, threshold } = props;
  const positive = watched(classes);
  return (
    <Card title={props.of} kind="verdict">
      <p class={`called ${label === positive ? "alarming" : ""}`}>{label}</p>
      {positive !== null ? (
        <>
          <p class="figure">
            {percent(probabilities[positive], 1)} <span>probability of {positive}</span>
          </p>
          <Bar name={positive} share={probabilities[positive] ?? 0} threshold={threshold} />
          {threshold !== null && (
            <p class="note">
              The mark is the threshold, {percent(threshold)}: {positive} is called from there.
            </p>
          )}
        </>
      ) : (
        <ClassBars classes={classes} probabilities={probabilities} called={label} />
      )}
      <p class="note">{props.calibrated ? "Calibrated on held-out cases." : "Not calibrated: a score, no frequency."}</p>
    </Card>
  );
}

export function Bar({ name, share, threshold }: { name: string; share: number; threshold: number | null }) {
  const told = threshold === null ? "" : `, threshold ${percent(threshold)}`;
  const over = threshold !== null && share >= threshold;
  return (
    <div
      class={`bar ${over ? "over" : ""}`}
      role="meter"
      aria-label={`Probability of ${name}`}
      aria-valuemin={0}
      aria-valuemax={1}
      aria-valuenow={Number(share.toFixed(3))}
      aria-valuetext={`${percent(share)}${told}`}
    >
      <div class="fill" style={{ width: `${share * 100}%` }} />
      {threshold !== null && <div class="threshold" style={{ left: `${threshold * 100}%` }} />}
    </div>
  );
}

export function ClassBars(props: { classes: string[]; probabilities: Probabilities; called: string | null }) {
  return (
    <dl class="classes">
      {props.classes.map((name) => (
        <div class={name === props.called ? "called-class" : ""}>
          <dt>{name}</dt>
          <dd>
            <Bar name={name} share={props.probabilities[name] ?? 0} threshold={null} />
            <span>{percent(props.probabilities[name])}</span>
          </dd>
        </div>
      ))}
    </dl>
  );
}

/** What makes no answer doubtful, such as a member that cannot say why. */
const NOTES = ["not-explained"];

interface Said {
  warnings: Doubt[];
  /** Which view an index means. */
  nameOf: (index: number) => string;
}

/** Reasons to trust the answer less, and apart from them what is only worth knowing. */
export function Warnings({ warnings, nameOf }: Said) {
  const doubts = warnings.filter((each) => !NOTES.includes(each.code));
  const notes = warnings.filter((each) => NOTES.includes(each.code));
  const title = doubts.length === 1 ? "A reason for doubt" : `${doubts.length} reasons for doubt`;
  return (
    <>
      {doubts.length > 0 && (
        <Card title={title} kind="warnings">
          <Messages warnings={doubts} nameOf={nameOf} />
        </Card>
      )}
      {notes.length > 0 && (
        <Card title="Not explained">
          <Messages warnings={notes} nameOf={nameOf} />
        </Card>
      )}
    </>
  );
}

function Messages({ warnings, nameOf }: Said) {
  return (
    <ul>
      {warnings.map((warning) => (
        <li>
          {warning.message}
          {warning.views.length > 0 && <Views names={warning.views.map(nameOf)} />}
        </li>
      ))}
    </ul>
  );
}

function Views({ names }: { names: string[] }) {
  return (
    <>
      {" "}
      {names.map((name) => (
        <span class="views">{name} </span>
      ))}
    </>
  );
}
