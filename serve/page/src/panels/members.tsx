// Each member's own vote, what its parts say, and how far its figures allow to rely on it.

import type { MemberInfo, Probabilities } from "../contract";
import { Card } from "./card";
import { Bar, ClassBars, percent, watched } from "./verdict";

interface MembersProps {
  /** What the votes are about, such as "view-1.dcm". */
  of: string;
  votes: Record<string, Probabilities>;
  parts: Record<string, Record<string, Probabilities>>;
  members: MemberInfo[];
  classes: string[];
  bodyPart: string | null;
}

export function Members({ of, votes, parts, members, classes, bodyPart }: MembersProps) {
  const known = new Map(members.map((member) => [member.name, member]));
  return (
    <Card title="Votes" kind="members">
      <p class="note">{of}</p>
      <ul>
        {Object.entries(votes).map(([name, vote]) => {
          const member = known.get(name);
          return (
            <li>
              <h3>
                {name}
                {member && <span> {member.family.replaceAll("_", " ")}, {percent(member.weight)} of the vote</span>}
              </h3>
              <Vote classes={classes} vote={vote} />
              {Object.entries(parts[name] ?? {}).map(([part, said]) => (
                <Part name={part} said={said} classes={classes} />
              ))}
              {member && <Reliability member={member} bodyPart={bodyPart} />}
            </li>
          );
        })}
      </ul>
    </Card>
  );
}

function Vote({ classes, vote }: { classes: string[]; vote: Probabilities }) {
  const positive = watched(classes);
  return positive === null ? (
    <ClassBars classes={classes} probabilities={vote} called={null} />
  ) : (
    <div class="vote">
      <Bar name={positive} share={vote[positive] ?? 0} threshold={null} />
      <span>{percent(vote[positive])}</span>
    </div>
  );
}

/** A part answers the member's question, such as a local network, or another one, such as the body part. */
function Part({ name, said, classes }: { name: string; said: Probabilities; classes: string[] }) {
  const positive = watched(classes);
  const same = positive !== null && positive in said;
  const [label, share] = Object.entries(said).sort(([, a], [, b]) => b - a)[0] ?? ["–", 0];
  return (
    <div class="vote part">
      <span class="name">{name.replaceAll("_", " ")}</span>
      <Bar name={same ? positive : label} share={same ? said[positive]! : share} threshold={null} />
      <span>{same ? percent(said[positive]) : `${label} ${percent(share)}`}</span>
    </div>
  );
}

const HEADLINES = ["auroc", "kappa", "balanced_accuracy", "accuracy"];

/** The figures that say most, of the split that was not learned from where there is one. */
function headline(metrics: Record<string, number>): [string, number][] {
  const found: [string, number][] = [];
  for (const figure of HEADLINES) {
    const name = [`val_${figure}`, figure, `learned_${figure}`].find((each) => each in metrics);
    if (name) {
      found.push([name, metrics[name]!]);
    }
  }
  return found.slice(0, 2);
}

const words = (name: string) => name.replaceAll("_", " ").replace(/^val /, "validation ").replace("auroc", "AUROC");
const figure = (value: number) => (Number.isInteger(value) ? String(value) : value.toPrecision(3));

export function Reliability({ member, bodyPart }: { member: MemberInfo; bodyPart: string | null }) {
  const strange = bodyPart !== null && bodyPart !== "" && !member.body_parts.includes(bodyPart);
  const best = headline(member.metrics);
  return (
    <details class="reliability">
      <summary>
        {best.length ? best.map(([name, value]) => `${words(name)} ${figure(value)}`).join(", ") : "no figures"}
        {strange && <strong> – not trained on {bodyPart}</strong>}
      </summary>
      <p class="note">Trained on {member.body_parts.join(", ") || "parts that nobody named"}. Figures of the chosen epoch flatter.</p>
      <dl class="figures">
        {Object.entries(member.metrics).map(([name, value]) => (
          <div>
            <dt>{words(name)}</dt>
            <dd>{figure(value)}</dd>
          </div>
        ))}
      </dl>
    </details>
  );
}
