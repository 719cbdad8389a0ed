// The page as a whole: what the server answers as tabs, the token, help and model cards.

import { useEffect, useState } from "preact/hooks";

import type { Models, Served } from "./contract";
import { Pairs } from "./modes/pairs";
import { Spines } from "./modes/spines";
import { Studies } from "./modes/studies";
import { AskToken, Cards, Help } from "./panels/dialogs";
import { Progress, useWork } from "./panels/progress";
import { json, onTokenNeeded } from "./server";

const TABS: Record<Served, [string, typeof Studies]> = {
  studies: ["Studies", Studies],
  pairs: ["Pairs", Pairs],
  spines: ["Spines", Spines],
};

interface Question {
  refused: boolean;
  answer: (token: string) => void;
}

export function App() {
  const [models, setModels] = useState<Models | null>(null);
  const [tab, setTab] = useState<Served | null>(null);
  const [dialog, setDialog] = useState<"help" | "models" | null>(null);
  const [question, setQuestion] = useState<Question | null>(null);
  const work = useWork();
  const load = () =>
    work.run(async (asked) => {
      const given = await json<Models>("v1/models", asked);
      setModels(given);
      setTab((now) => now ?? given.served[0] ?? null);
      return "The models are ready.";
    }, "Asking which models answer");

  useEffect(() => {
    onTokenNeeded(
      (refused) =>
        new Promise((resolve) => {
          const answer = (token: string) => {
            setQuestion(null);
            resolve(token);
          };
          setQuestion({ refused, answer });
        }),
    );
    load();
    const help = (event: KeyboardEvent) => {
      if (event.key === "?" && !(event.target as HTMLElement).closest("input:not([type=range]), textarea, select")) {
        setDialog("help");
      }
    };
    // A file that misses its place must not replace the page.
    const keep = (event: DragEvent) => event.preventDefault();
    document.addEventListener("keydown", help);
    document.addEventListener("dragover", keep);
    document.addEventListener("drop", keep);
    return () => {
      document.removeEventListener("keydown", help);
      document.removeEventListener("dragover", keep);
      document.removeEventListener("drop", keep);
    };
  }, []);

  return (
    <>
      <header class="top">
        <h1>mskray</h1>
        <nav aria-label="What to read">
          {models?.served.map((name) => (
            <button type="button" aria-current={name === tab ? "page" : undefined} onClick={() => setTab(name)}>
              {TABS[name][0]}
            </button>
          ))}
        </nav>
        <p class="disclaimer">Not a medical device: for research, not for diagnosis.</p>
        <div class="tools">
          <button type="button" disabled={!models} onClick={() => setDialog("models")}>
            Models
          </button>
          <button type="button" aria-label="Keys and pointers" onClick={() => setDialog("help")}>
            ?
          </button>
        </div>
      </header>
      <main>
        {models ? (
          models.served.map((name) => {
            const Mode = TABS[name][1];
            return (
              <div class="tab" hidden={name !== tab}>
                <Mode models={models} />
              </div>
            );
          })
        ) : (
          <div class="starting">
            <Progress work={work} />
            {work.problem && (
              <button type="button" class="primary" onClick={load}>
                Ask again
              </button>
            )}
          </div>
        )}
      </main>
      {dialog === "help" && <Help onClose={() => setDialog(null)} />}
      {dialog === "models" && models && <Cards models={models} onClose={() => setDialog(null)} />}
      {question && <AskToken key={String(question.refused)} refused={question.refused} onToken={question.answer} />}
    </>
  );
}
