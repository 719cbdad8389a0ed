// A titled part of an answer; tabs that are hidden keep theirs, so ids are made.

import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

export function Card({ title, kind = "", children }: { title: string; kind?: string; children: ComponentChildren }) {
  const id = useId();
  return (
    <section class={`card ${kind}`} aria-labelledby={id}>
      <h2 id={id}>{title}</h2>
      {children}
    </section>
  );
}
