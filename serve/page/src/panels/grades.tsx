// The grades of a spine: a row a disc, a column a task; the one that is chosen shows its classes and its hotspots.

import type { DiscResult } from "../contract";
import { Card } from "./card";
import { ClassBars, percent } from "./verdict";

export interface Chosen {
  disc: number;
  task: string;
}

interface GradesProps {
  discs: DiscResult[];
  tasks: Record<string, string[]>;
  chosen: Chosen | null;
  onChoose: (chosen: Chosen) => void;
}

const SHORT: Record<string, string> = {
  pfirrmann: "Pfirrmann",
  narrowing: "Narrowing",
  upper_endplate: "Endplate ↑",
  lower_endplate: "Endplate ↓",
  upper_marrow: "Marrow ↑",
  lower_marrow: "Marrow ↓",
};

export const taskWords = (task: string) => task.replaceAll("_", " ");

export function Grades({ discs, tasks, chosen, onChoose }: GradesProps) {
  const names = Object.keys(tasks).sort((a, b) => order(a) - order(b));
  const disc = chosen ? discs[chosen.disc] : undefined;
  const grade = chosen ? disc?.grades[chosen.task] : undefined;
  return (
    <Card title="Grades" kind="grades">
      <div class="scroll" tabIndex={0} role="region" aria-label="Table of grades">
        <table>
          <thead>
            <tr>
              <th scope="col">Disc</th>
              {names.map((task) => (
                <th scope="col" title={taskWords(task)}>
                  <abbr title={taskWords(task)}>{SHORT[task] ?? taskWords(task)}</abbr>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {discs.map((each, place) => (
              <tr>
                <th scope="row">{each.level}</th>
                {each.note !== null && Object.keys(each.grades).length === 0 ? (
                  <td colSpan={names.length} class="note">
                    {each.note}
                  </td>
                ) : (
                  names.map((task) => {
                    const given = each.grades[task];
                    const open = chosen?.disc === place && chosen.task === task;
                    return (
                      <td>
                        {given ? (
                          <button
                            type="button"
                            class={`grade g${severity(tasks[task]!, given.label)}`}
                            aria-pressed={open}
                            onClick={() => onChoose({ disc: place, task })}
                          >
                            <i class="unseen">
                              {each.level} {taskWords(task)}:
                            </i>
                            <b>{given.label}</b>
                            <span>{percent(given.probabilities[given.label])}</span>
                          </button>
                        ) : (
                          "–"
                        )}
                      </td>
                    );
                  })
                )}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {chosen && disc && grade ? (
        <div class="chosen" aria-live="polite">
          <h3>
            {disc.level}, {taskWords(chosen.task)}: {grade.label}
          </h3>
          <ClassBars classes={tasks[chosen.task]!} probabilities={grade.probabilities} called={grade.label} />
          {!grade.hotspots && <p class="note">No evidence was asked for.</p>}
        </div>
      ) : (
        <p class="note">Choose a grade for its classes, and for its evidence where that was asked for.</p>
      )}
    </Card>
  );
}

const order = (task: string) => {
  const place = Object.keys(SHORT).indexOf(task);
  return place < 0 ? Infinity : place;
};

/** 0 for the best class to 3 for the worst: tasks have two to five. */
function severity(classes: string[], label: string): number {
  return Math.round((3 * Math.max(0, classes.indexOf(label))) / Math.max(1, classes.length - 1));
}
