// Lines over a picture: key areas, vertebral bodies, a reader's boxes. They keep their width at every zoom.

export type Kind = "area" | "body" | "corrected" | "drawn";

export interface Mark {
  kind: Kind;
  /** (column, row) of each corner. */
  corners: [number, number][];
  name: string;
}

export function boxMark(
  kind: Kind,
  box: { x: number; y: number; width: number; height: number },
  name: string,
): Mark {
  const right = box.x + box.width;
  const bottom = box.y + box.height;
  return { kind, name, corners: [[box.x, box.y], [right, box.y], [right, bottom], [box.x, bottom]] };
}

/** Draw over (rows, columns) in the picture's own coordinates; `scale` is px of the screen for a pixel. */
export function Marks(props: { marks: Mark[]; rows: number; columns: number; scale: number; aspect: number }) {
  const { marks, rows, columns, scale, aspect } = props;
  return (
    <svg class="marks" viewBox={`0 0 ${columns} ${rows}`} width={columns} height={rows} aria-hidden="true">
      {marks.map((mark) => {
        const own = mark.kind === "area" || mark.kind === "body";
        // A reader's box has its name below, because one that corrects an area begins where that does.
        const [x, y] = mark.kind === "body" ? middle(mark.corners) : mark.corners[own ? 0 : 3]!;
        const points = mark.corners.join(" ");
        return (
          <g class={`mark ${mark.kind}`}>
            <polygon class="under" points={points} stroke-width={4 / scale} />
            <polygon points={points} stroke-width={2 / scale} />
            <text
              transform={`translate(${x} ${y}) scale(${1 / scale} ${1 / (scale * aspect)})`}
              y={mark.kind === "body" ? 0 : own ? -5 : 16}
            >
              {mark.name}
            </text>
          </g>
        );
      })}
    </svg>
  );
}

function middle(corners: [number, number][]): [number, number] {
  const sum = corners.reduce<[number, number]>((so, next) => [so[0] + next[0], so[1] + next[1]], [0, 0]);
  return [sum[0] / corners.length, sum[1] / corners.length];
}
