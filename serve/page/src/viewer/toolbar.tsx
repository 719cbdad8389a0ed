// The controls of a viewer; each has a key of its own too (see `KEYS` in `reader`).

import { type Change, FIT, type Look, WINDOW, windowOf, zoomed } from "../looks";
import type { Picture } from "../pixels";
import type { Tool } from "./pane";

interface ToolbarProps {
  picture: Picture | null;
  look: Look;
  onLook: Change;
  tool: Tool;
  onTool: (tool: Tool) => void;
  boxes: boolean;
  maps: boolean;
  onMaps: (on: boolean) => void;
  hasMaps: boolean;
  opacity: number;
  onOpacity: (opacity: number) => void;
  lines: boolean;
  onLines: (on: boolean) => void;
  hasLines: boolean;
}

const TOOLS: [Tool, string][] = [
  ["window", "Window"],
  ["pan", "Pan"],
  ["box", "Box"],
];

export function Toolbar(props: ToolbarProps) {
  const { picture, look, onLook } = props;
  const { centre, width } = picture ? windowOf(picture, look) : { centre: 0, width: 0 };
  const off = picture === null;
  return (
    <div class="toolbar" role="toolbar" aria-label="Picture controls">
      <fieldset class="choice" disabled={off}>
        <legend class="unseen">What dragging does</legend>
        {TOOLS.filter(([tool]) => tool !== "box" || props.boxes).map(([tool, name]) => (
          <button type="button" aria-pressed={props.tool === tool} onClick={() => props.onTool(tool)}>
            {name}
          </button>
        ))}
      </fieldset>
      <fieldset disabled={off}>
        <legend class="unseen">Window</legend>
        <Slider
          name="Level"
          value={look.shift}
          min={-1}
          max={1}
          step={0.01}
          shown={Math.round(centre)}
          onChange={(value) => onLook((now) => ({ ...now, shift: value }))}
        />
        <Slider
          name="Width"
          value={Math.log2(look.width)}
          min={-5}
          max={2}
          step={0.05}
          shown={Math.round(width)}
          onChange={(value) => onLook((now) => ({ ...now, width: 2 ** value }))}
        />
        <button
          type="button"
          aria-pressed={look.inverted}
          onClick={() => onLook((now) => ({ ...now, inverted: !now.inverted }))}
        >
          Invert
        </button>
        <button type="button" onClick={() => onLook((now) => ({ ...now, ...WINDOW }))}>
          Reset
        </button>
      </fieldset>
      <fieldset class="choice" disabled={off}>
        <legend class="unseen">Zoom</legend>
        <button type="button" aria-label="Zoom out" onClick={() => onLook((now) => zoomed(now, 0.8))}>
          −
        </button>
        <button type="button" onClick={() => onLook((now) => ({ ...now, ...FIT }))}>
          Fit
        </button>
        <button type="button" aria-label="Zoom in" onClick={() => onLook((now) => zoomed(now, 1.25))}>
          +
        </button>
      </fieldset>
      <fieldset disabled={off}>
        <legend class="unseen">Over the picture</legend>
        {props.hasMaps && (
          <>
            <label class="switch">
              <input type="checkbox" checked={props.maps} onChange={(event) => props.onMaps(event.currentTarget.checked)} />
              Evidence
            </label>
            <Slider
              name="Opacity"
              value={props.opacity}
              min={0}
              max={1}
              step={0.05}
              shown={`${Math.round(props.opacity * 100)} %`}
              onChange={props.onOpacity}
            />
          </>
        )}
        {props.hasLines && (
          <label class="switch">
            <input type="checkbox" checked={props.lines} onChange={(event) => props.onLines(event.currentTarget.checked)} />
            Outlines
          </label>
        )}
      </fieldset>
    </div>
  );
}

interface SliderProps {
  name: string;
  value: number;
  min: number;
  max: number;
  step: number;
  shown: number | string;
  onChange: (value: number) => void;
}

function Slider({ name, value, min, max, step, shown, onChange }: SliderProps) {
  return (
    <label class="slider">
      <span>{name}</span>
      <input
        type="range"
        min={min}
        max={max}
        step={step}
        value={value}
        aria-valuetext={String(shown)}
        onInput={(event) => onChange(Number(event.currentTarget.value))}
      />
      <output>{shown}</output>
    </label>
  );
}
