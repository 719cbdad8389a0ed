// One picture to read: a canvas of its windowed pixels, maps and marks over it, moved and scaled together by CSS.
//
// Why no Cornerstone3D: built with its tools (5.14, one stack viewport) it is 4.2 MB, 1.2 MB compressed, of 53
// packages, most of them for volume rendering and for DICOM, which the server decodes. It does run under this page's
// content security policy, but draws through WebGL, whose fallback in software browsers are giving up, and its boxes
// are drawn with a mouse only. Zoom, pan and touch are d3-zoom's here; the window is a look-up table (`looks`).

import { select } from "d3-selection";
import { type D3ZoomEvent, type ZoomBehavior, zoom, zoomIdentity, zoomTransform } from "d3-zoom";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { type Change, type Look, framed, paint, windowOf, windowed } from "../looks";
import type { Picture } from "../pixels";
import type { Layer } from "./evidence";
import { type Place, type Size, fitScale, frameOf, pixelAt, placeOf } from "./framing";
import { type Mark, Marks, boxMark } from "./marks";

export type Tool = "window" | "pan" | "box";
export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface PaneProps {
  picture: Picture;
  slice: number;
  look: Look;
  onLook: Change;
  tool: Tool;
  layers: Layer[];
  opacity: number;
  marks: Mark[];
  /** What a screen reader says of it. */
  label: string;
  /** Shown in its upper corner. */
  title: string;
  onScroll?: (slices: number) => void;
  onBox?: (box: Box) => void;
}

/** The smallest box that a reader can mean, px of the picture. */
const SMALLEST = 3;

export function Pane(props: PaneProps) {
  const { picture, look, slice } = props;
  const pane = useRef<HTMLDivElement>(null);
  const size = useSize(pane);
  const [drawn, setDrawn] = useState<Box | null>(null);
  const [under, setUnder] = useState<[number, number] | null>(null);
  const place = size ? placeOf(picture, size, look) : null;
  useZoom(pane, props, size, place);
  const drag = useDrag(pane, props, place, setDrawn, setUnder);
  const { centre, width } = windowOf(picture, look);
  const marks = drawn ? [...props.marks, boxMark("drawn", drawn, "")] : props.marks;
  return (
    <div
      class={`pane ${props.tool}`}
      ref={pane}
      role="application"
      aria-roledescription="picture"
      aria-label={props.label}
      tabIndex={0}
      {...drag}
    >
      {place && (
        <div
          class="stage"
          style={{
            width: `${picture.columns}px`,
            height: `${picture.rows}px`,
            transform: `translate(${place.x}px, ${place.y}px) scale(${place.scale}, ${place.scale * picture.aspect})`,
          }}
        >
          <Pixels picture={picture} slice={slice} look={look} />
          {props.layers.map((layer) => (
            <EvidenceMap key={layer.href} layer={layer} opacity={props.opacity} />
          ))}
          <Marks
            marks={marks}
            rows={picture.rows}
            columns={picture.columns}
            scale={place.scale}
            aspect={picture.aspect}
          />
        </div>
      )}
      <p class="corner top">{props.title}</p>
      <p class="corner bottom" aria-hidden="true">
        <span>
          W {Math.round(width)} · L {Math.round(centre)}
        </span>
        <span>{Math.round(look.zoom * 100)} %</span>
        {picture.slices > 1 && (
          <span>
            slice {slice + 1} of {picture.slices}
          </span>
        )}
        {under && <span>{valueAt(picture, slice, under)}</span>}
      </p>
    </div>
  );
}

function valueAt(picture: Picture, slice: number, [x, y]: [number, number]): string {
  const [column, row] = [Math.floor(x), Math.floor(y)];
  if (column < 0 || row < 0 || column >= picture.columns || row >= picture.rows) {
    return "";
  }
  return `${column}, ${row}: ${picture.data[(slice * picture.rows + row) * picture.columns + column]}`;
}

/** The windowed pixels, painted at most once a frame. */
function Pixels({ picture, slice, look }: { picture: Picture; slice: number; look: Look }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const { shift, width, inverted } = look;
  useEffect(() => {
    const frame = requestAnimationFrame(() => {
      const context = canvas.current!.getContext("2d")!;
      const image = context.createImageData(picture.columns, picture.rows);
      paint(picture, slice, look, image);
      context.putImageData(image, 0, 0);
    });
    return () => cancelAnimationFrame(frame);
  }, [picture, slice, shift, width, inverted]);
  return <canvas ref={canvas} width={picture.columns} height={picture.rows} />;
}

function EvidenceMap({ layer, opacity }: { layer: Layer; opacity: number }) {
  const holder = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => holder.current!.replaceChildren(layer.image), [layer.image]);
  return <div class="map" ref={holder} style={{ opacity: String(opacity), transform: `matrix(${layer.matrix})` }} />;
}

function useSize(element: { current: HTMLElement | null }): Size | null {
  const [size, setSize] = useState<Size | null>(null);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(() => {
      const { clientWidth: width, clientHeight: height } = element.current!;
      setSize({ width, height });
    });
    watch.observe(element.current!);
    return () => watch.disconnect();
  }, []);
  return size;
}

/** Wheel, middle button, two fingers and the tool "pan" go to d3-zoom. */
function useZoom(pane: { current: HTMLElement | null }, props: PaneProps, size: Size | null, place: Place | null) {
  const now = useRef({ props, size });
  now.current = { props, size };
  const behaviour = useRef<ZoomBehavior<HTMLElement, unknown>>();
  const following = useRef(false);
  useEffect(() => {
    const made = zoom<HTMLElement, unknown>()
      .filter((event: Event) => {
        const { tool, picture } = now.current.props;
        if (event instanceof WheelEvent) {
          return picture.slices === 1 || event.ctrlKey;
        }
        if (event instanceof MouseEvent) {
          return event.button === 1 || (event.button === 0 && tool === "pan");
        }
        return tool === "pan" || ((event as TouchEvent).touches?.length ?? 0) > 1;
      })
      .on("zoom", (event: D3ZoomEvent<HTMLElement, unknown>) => {
        const { props: given, size: known } = now.current;
        // While the picture follows a look it must not change it.
        if (!following.current && known) {
          const { k: scale, x, y } = event.transform;
          given.onLook((look) => framed(look, frameOf(given.picture, known, { scale, x, y })));
        }
      });
    behaviour.current = made;
    select(pane.current!).call(made).on("dblclick.zoom", null);
    const element = pane.current!;
    let turned = 0;
    const scroll = (event: WheelEvent) => {
      if (now.current.props.onScroll && !event.ctrlKey) {
        event.preventDefault();
        turned += event.deltaMode === 0 ? event.deltaY / 60 : event.deltaY;
        const slices = Math.trunc(turned);
        turned -= slices;
        now.current.props.onScroll(slices);
      }
    };
    element.addEventListener("wheel", scroll, { passive: false });
    return () => element.removeEventListener("wheel", scroll);
  }, []);
  useLayoutEffect(() => {
    if (behaviour.current && place && size) {
      const fit = fitScale(props.picture, size);
      behaviour.current.scaleExtent([fit * 0.25, fit * 32]);
      const transform = zoomIdentity.translate(place.x, place.y).scale(place.scale);
      const { k, x, y } = zoomTransform(pane.current!);
      if (Math.abs(k / place.scale - 1) + Math.abs(x - place.x) + Math.abs(y - place.y) > 1e-6) {
        following.current = true;
        behaviour.current.transform(select(pane.current!), transform);
        following.current = false;
      }
    }
  });
}

/** What one pointer does with the tools "window" and "box". */
function useDrag(
  pane: { current: HTMLElement | null },
  props: PaneProps,
  place: Place | null,
  setDrawn: (box: Box | null) => void,
  setUnder: (pixel: [number, number] | null) => void,
) {
  const start = useRef<{ id: number; x: number; y: number; from: [number, number]; box: Box | null } | null>(null);
  const pixel = (event: PointerEvent): [number, number] => {
    const area = pane.current!.getBoundingClientRect();
    const { picture } = props;
    return pixelAt(picture, place!, [event.clientX - area.left, event.clientY - area.top]);
  };
  return {
    onPointerDown(event: PointerEvent) {
      if (event.button !== 0 || props.tool === "pan" || !place) {
        return;
      }
      if (!event.isPrimary) {
        start.current = null; // a second finger: this becomes a pinch
        setDrawn(null);
        return;
      }
      pane.current!.setPointerCapture(event.pointerId);
      start.current = { id: event.pointerId, x: event.clientX, y: event.clientY, from: pixel(event), box: null };
    },
    onPointerMove(event: PointerEvent) {
      const begun = start.current;
      if (place && event.pointerType === "mouse") {
        setUnder(pixel(event));
      }
      if (!begun || event.pointerId !== begun.id) {
        return;
      }
      if (props.tool === "window") {
        const area = pane.current!.getBoundingClientRect();
        const [right, down] = [event.clientX - begun.x, event.clientY - begun.y];
        props.onLook((look) => windowed(look, -down / area.height, (2 * right) / area.width));
        [begun.x, begun.y] = [event.clientX, event.clientY];
      } else if (props.onBox) {
        begun.box = between(props.picture, begun.from, pixel(event));
        setDrawn(begun.box);
      }
    },
    onPointerUp() {
      const box = start.current?.box;
      if (box && box.width >= SMALLEST && box.height >= SMALLEST) {
        props.onBox?.(box);
      }
      start.current = null;
      setDrawn(null);
    },
    onPointerCancel() {
      start.current = null;
      setDrawn(null);
    },
    onPointerLeave() {
      setUnder(null);
    },
  };
}

function between(picture: Picture, first: [number, number], second: [number, number]): Box {
  const inside = (value: number, most: number) => Math.min(Math.max(value, 0), most);
  const [left, right] = [first[0], second[0]].map((x) => inside(x, picture.columns)).sort((a, b) => a - b);
  const [top, bottom] = [first[1], second[1]].map((y) => inside(y, picture.rows)).sort((a, b) => a - b);
  return { x: left!, y: top!, width: right! - left!, height: bottom! - top! };
}
