// What lies over the page: help, the models' cards, and the question for a token.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import type { Models } from "../contract";
import { KEYS } from "../viewer/reader";
import { Markdown } from "./markdown";
import { Reliability } from "./members";

interface DialogProps {
  title: string;
  onClose: () => void;
  wide?: boolean;
  children: ComponentChildren;
}

/** The browser's own modal dialog: it keeps the focus inside and gives it back. */
export function Dialog({ title, onClose, wide, children }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const element = dialog.current!;
    element.showModal();
    return () => element.close();
  }, []);
  return (
    <dialog ref={dialog} class={wide ? "wide" : ""} aria-labelledby="dialog-title" onClose={onClose}>
      <header>
        <h2 id="dialog-title">{title}</h2>
        <button type="button" onClick={onClose}>
          Close
        </button>
      </header>
      <div class="content">{children}</div>
    </dialog>
  );
}

export function Help({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title="Keys and pointers" onClose={onClose}>
      <p>Keys work while a picture or its toolbar has the focus; Tab moves it. “?” opens this from anywhere.</p>
      <table class="keys">
        <thead>
          <tr>
            <th scope="col">Key</th>
            <th scope="col">What it does</th>
          </tr>
        </thead>
        <tbody>
          {KEYS.map(([key, what]) => (
            <tr>
              <th scope="row">
                <kbd>{key}</kbd>
              </th>
              <td>{what}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <p>
        Wheel: zoom, in a volume the slice, with Ctrl the zoom. Middle button or two fingers: pan and zoom. Left button
        or one finger: what the toolbar says.
      </p>
      <p>A box can be typed too: under “Correct the answer”, in pixels of the picture.</p>
    </Dialog>
  );
}

export function Cards({ models, onClose }: { models: Models; onClose: () => void }) {
  const [open, setOpen] = useState(0);
  const member = models.members[open];
  return (
    <Dialog title="Models" onClose={onClose} wide>
      {models.rollout && models.rollout.state !== "served" && (
        <p class="notice">
          {models.rollout.ensemble}: {models.rollout.state}
          {models.rollout.reason && ` – ${models.rollout.reason}`}
        </p>
      )}
      <div class="cards">
        <ul aria-label="Bundles">
          {models.members.map((each, place) => (
            <li>
              <button type="button" aria-current={place === open} onClick={() => setOpen(place)}>
                {each.name} <span>{each.serves}</span>
              </button>
            </li>
          ))}
        </ul>
        {member && (
          <article aria-live="polite">
            <Reliability member={member} bodyPart={null} />
            <Markdown text={member.card} />
            <p class="note hash">bundle {member.hash}</p>
          </article>
        )}
      </div>
    </Dialog>
  );
}

export function AskToken({ refused, onToken }: { refused: boolean; onToken: (token: string) => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current!.showModal(), []);
  const send = (event: SubmitEvent) => {
    event.preventDefault();
    const given = new FormData(event.currentTarget as HTMLFormElement).get("token");
    onToken(String(given).trim());
  };
  return (
    <dialog ref={dialog} aria-labelledby="token-title" onCancel={(event) => event.preventDefault()}>
      <form onSubmit={send}>
        <header>
          <h2 id="token-title">This server asks for a token</h2>
        </header>
        <div class="content">
          {refused && <p class="notice" role="alert">The token was not accepted.</p>}
          <label class="field">
            Token
            <input type="password" name="token" required autocomplete="off" autofocus pattern="[!-~]+" />
          </label>
          <p class="note">It is kept until this tab is closed.</p>
          <button type="submit" class="primary">
            Go on
          </button>
        </div>
      </form>
    </dialog>
  );
}
