// What the page does now, how far it is and what went wrong: shown, and told to screen readers.

import { useRef, useState } from "preact/hooks";

import type { ProblemDetails } from "../contract";
import { type Asked, Refused } from "../server";

export interface Doing {
  words: string;
  done?: number;
  total?: number;
}

export interface Work {
  doing: Doing | null;
  problem: ProblemDetails | null;
  /** Told once it is finished. */
  said: string;
  /** Run a task, after stopping the one before. `tell` shows how far it is; what it returns is told at its end. */
  run: (task: (asked: Asked, tell: (doing: Doing) => void) => Promise<string>, words: string) => void;
  stop: () => void;
}

export function useWork(): Work {
  const [doing, setDoing] = useState<Doing | null>(null);
  const [problem, setProblem] = useState<ProblemDetails | null>(null);
  const [said, setSaid] = useState("");
  const running = useRef<AbortController | null>(null);
  const stop = () => {
    running.current?.abort();
    running.current = null;
    setDoing(null);
  };
  const run: Work["run"] = (task, words) => {
    stop();
    const mine = new AbortController();
    running.current = mine;
    const current = () => running.current === mine;
    let last: Doing = { words };
    const show = (next: Doing) => current() && setDoing(next);
    const tell = (next: Doing) => show((last = next));
    setProblem(null);
    setSaid("");
    tell(last);
    const onWait = (wait: string | null) => show(wait === null ? last : { words: wait });
    task({ signal: mine.signal, onWait }, tell)
      .then((end) => current() && setSaid(end))
      .catch((error: unknown) => current() && setProblem(problemOf(error)))
      .finally(() => current() && setDoing(null));
  };
  return { doing, problem, said, run, stop };
}

function problemOf(error: unknown): ProblemDetails {
  if (error instanceof Refused) {
    return error.problem;
  }
  return { type: "about:blank", title: "The page cannot go on", status: 0, detail: String(error) };
}

export function Progress({ work }: { work: Work }) {
  const { doing, problem, said } = work;
  return (
    <div class="progress">
      <div role="status" class={doing ? "doing" : "unseen"}>
        {doing ? doing.words : said}
      </div>
      {doing && (
        <div class="doing-bar">
          <progress aria-label={doing.words} max={doing.total || undefined} value={doing.total ? doing.done : undefined} />
          {doing.total ? <span>{`${doing.done} / ${doing.total}`}</span> : null}
          <button type="button" onClick={work.stop}>
            Stop
          </button>
        </div>
      )}
      <div role="alert">{problem && <Refusal problem={problem} />}</div>
    </div>
  );
}

export function Refusal({ problem }: { problem: ProblemDetails }) {
  return (
    <div class="card refusal">
      <h2>{problem.title}</h2>
      {problem.detail && <p>{problem.detail}</p>}
      {problem.views && (
        <ul>
          {problem.views.map((view) => (
            <li>
              {view.name ?? `view ${view.index + 1}`}: {view.reason}
            </li>
          ))}
        </ul>
      )}
      {problem.request_id && <p class="note hash">request {problem.request_id}</p>}
    </div>
  );
}
