// How a picture is looked at: window, inversion and framing, apart from the picture, so that two can share it.

import type { Picture } from "./pixels";

export interface Look {
  /** Shift of the window's centre, in widths of the picture's own window. */
  shift: number;
  /** Width of the window over that of the picture's own. */
  width: number;
  inverted: boolean;
  /** 1 fits the picture into its pane. */
  zoom: number;
  /** The part of the picture that lies in the pane's middle, as shares of its columns and rows. */
  x: number;
  y: number;
}

export type Change = (change: (look: Look) => Look) => void;

export const FIRST_LOOK: Look = { shift: 0, width: 1, inverted: false, zoom: 1, x: 0.5, y: 0.5 };
export const FIT = { zoom: 1, x: 0.5, y: 0.5 };
export const WINDOW = { shift: 0, width: 1, inverted: false };

const clamp = (value: number, low: number, high: number) => Math.min(Math.max(value, low), high);

/** The grey values that become black and white. */
export function windowOf(picture: Picture, look: Look): { centre: number; width: number } {
  const own = picture.high - picture.low;
  return { centre: (picture.low + picture.high) / 2 + look.shift * own, width: Math.max(1, own * look.width) };
}

/** Change the window by shares of its range: `brighter` moves its centre, `wider` its width. */
export function windowed(look: Look, brighter: number, wider: number): Look {
  return {
    ...look,
    shift: clamp(look.shift - brighter, -1, 1),
    width: clamp(look.width * Math.exp(wider), 0.02, 4),
  };
}

export function zoomed(look: Look, factor: number): Look {
  return framed(look, { zoom: look.zoom * factor });
}

/** Move the picture by shares of what the pane shows of it. */
export function panned(look: Look, right: number, down: number): Look {
  return framed(look, { x: look.x - right / look.zoom, y: look.y - down / look.zoom });
}

export function framed(look: Look, frame: Partial<typeof FIT>): Look {
  const next = { ...look, ...frame };
  return { ...next, zoom: clamp(next.zoom, 0.25, 32), x: clamp(next.x, 0, 1), y: clamp(next.y, 0, 1) };
}

/** Paint one slice through the window: (rows, columns) of opaque grey. */
export function paint(picture: Picture, slice: number, look: Look, into: ImageData): void {
  const { centre, width } = windowOf(picture, look);
  const low = centre - width / 2;
  const table = new Uint32Array(picture.data instanceof Uint8Array ? 1 << 8 : 1 << 16);
  for (let value = 0; value < table.length; value++) {
    const share = clamp((value - low) / width, 0, 1);
    const grey = Math.round(255 * (look.inverted ? 1 - share : share));
    table[value] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
  }
  const size = picture.rows * picture.columns;
  const data = picture.data.subarray(slice * size, (slice + 1) * size);
  const out = new Uint32Array(into.data.buffer);
  for (let place = 0; place < size; place++) {
    out[place] = table[data[place]!]!;
  }
}
