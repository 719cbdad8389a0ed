// The pictures of an answer side by side under one toolbar: they share window and framing, and the keyboard.

import { useRef, useState } from "preact/hooks";

import { FIRST_LOOK, FIT, type Look, WINDOW, panned, windowed, zoomed } from "../looks";
import type { Picture } from "../pixels";
import type { Layer } from "./evidence";
import type { Mark } from "./marks";
import { type Box, Pane, type Tool } from "./pane";
import { Toolbar } from "./toolbar";

export interface Shown {
  key: string;
  picture: Picture | null;
  title: string;
  label: string;
  layers: Layer[];
  marks: Mark[];
  /** Instead of a picture. */
  note: string;
}

interface ReaderProps {
  shown: Shown[];
  /** Of a volume. */
  slice?: number;
  onSlice?: (slice: number) => void;
  /** Next (1) or previous (−1) view. */
  onView?: (step: number) => void;
  onBox?: (box: Box) => void;
}

/** What keys do while the viewer has the focus; the help lists them. */
export const KEYS: [string, string][] = [
  ["← ↑ → ↓", "pan"],
  ["Shift + ← →", "narrower or wider window"],
  ["Shift + ↑ ↓", "brighter or darker"],
  ["+  −  0", "zoom in, zoom out, fit"],
  ["r", "reset the window"],
  ["i", "invert"],
  ["w  p  b", "drag changes the window, pans, draws a box"],
  ["e", "evidence on or off"],
  [",  .", "evidence fainter or stronger"],
  ["k", "key areas and outlines on or off"],
  ["[  ]  Page up, down", "previous or next view or slice"],
  ["Home  End", "first or last slice"],
];

export function Reader(props: ReaderProps) {
  const [look, setLook] = useState<Look>(FIRST_LOOK);
  const [tool, setTool] = useState<Tool>("window");
  const [opacity, setOpacity] = useState(0.5);
  const [maps, setMaps] = useState(true);
  const [lines, setLines] = useState(true);
  const group = useRef<HTMLDivElement>(null);
  const first = props.shown.find((each) => each.picture)?.picture ?? null;
  const last = (first?.slices ?? 1) - 1;
  const slice = Math.min(props.slice ?? 0, last);
  const go = (place: number) => props.onSlice?.(Math.min(Math.max(place, 0), last));
  const step = (by: number) => (props.onSlice ? go(slice + by) : props.onView?.(by));
  const drawing = tool === "box" && !props.onBox ? "window" : tool;

  const keys: Record<string, () => void> = {
    ArrowLeft: () => setLook((now) => panned(now, 0.1, 0)),
    ArrowRight: () => setLook((now) => panned(now, -0.1, 0)),
    ArrowUp: () => setLook((now) => panned(now, 0, 0.1)),
    ArrowDown: () => setLook((now) => panned(now, 0, -0.1)),
    "Shift+ArrowLeft": () => setLook((now) => windowed(now, 0, -0.1)),
    "Shift+ArrowRight": () => setLook((now) => windowed(now, 0, 0.1)),
    "Shift+ArrowUp": () => setLook((now) => windowed(now, 0.04, 0)),
    "Shift+ArrowDown": () => setLook((now) => windowed(now, -0.04, 0)),
    "+": () => setLook((now) => zoomed(now, 1.25)),
    "=": () => setLook((now) => zoomed(now, 1.25)),
    "-": () => setLook((now) => zoomed(now, 0.8)),
    "0": () => setLook((now) => ({ ...now, ...FIT })),
    r: () => setLook((now) => ({ ...now, ...WINDOW })),
    i: () => setLook((now) => ({ ...now, inverted: !now.inverted })),
    w: () => setTool("window"),
    p: () => setTool("pan"),
    b: () => props.onBox && setTool("box"),
    e: () => setMaps((now) => !now),
    ",": () => setOpacity((now) => Math.max(0, now - 0.1)),
    ".": () => setOpacity((now) => Math.min(1, now + 0.1)),
    k: () => setLines((now) => !now),
    "[": () => step(-1),
    "]": () => step(1),
    PageUp: () => step(-1),
    PageDown: () => step(1),
    Home: () => go(0),
    End: () => go(last),
  };

  const pressed = (event: KeyboardEvent) => {
    const control = (event.target as HTMLElement).closest("input, select, textarea");
    if (control || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    const act = keys[event.shiftKey && event.key.startsWith("Arrow") ? `Shift+${event.key}` : event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  };

  return (
    <section class="reader" aria-label="Pictures" ref={group} onKeyDown={pressed}>
      <Toolbar
        picture={first}
        look={look}
        onLook={setLook}
        tool={drawing}
        onTool={setTool}
        boxes={!!props.onBox}
        maps={maps}
        onMaps={setMaps}
        opacity={opacity}
        onOpacity={setOpacity}
        hasMaps={props.shown.some((each) => each.layers.length > 0)}
        lines={lines}
        onLines={setLines}
        hasLines={props.shown.some((each) => each.marks.length > 0)}
      />
      <div class="panes">
        {props.shown.map((each) =>
          each.picture ? (
            <Pane
              key={each.key}
              picture={each.picture}
              slice={slice}
              look={look}
              onLook={setLook}
              tool={drawing}
              layers={maps ? each.layers : []}
              opacity={opacity}
              marks={lines ? each.marks : each.marks.filter((mark) => mark.kind === "corrected")}
              label={each.label}
              title={each.title}
              onScroll={props.onSlice && step}
              onBox={props.onBox}
            />
          ) : (
            <div class="pane empty" key={each.key}>
              <p>{each.note}</p>
            </div>
          ),
        )}
      </div>
      {props.onSlice && last > 0 && (
        <label class="slices">
          Slice
          <input
            type="range"
            min={1}
            max={last + 1}
            value={slice + 1}
            onInput={(event) => go(Number(event.currentTarget.value) - 1)}
          />
          <output>
            {slice + 1} / {last + 1}
          </output>
        </label>
      )}
    </section>
  );
}
