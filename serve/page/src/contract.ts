// What the server answers, field by field as in its /openapi.json: tests/page compares the two, so they cannot drift.
// An interface has the name of its schema; what a field means is written there.

export type Probabilities = Record<string, number>;
export type Served = "studies" | "pairs" | "spines";

export interface Doubt {
  code: string;
  views: number[];
  message: string;
}

export interface UnreadableView {
  index: number;
  name: string | null;
  reason: string;
}

export interface InvalidValue {
  where: string;
  what: string;
}

export interface ProblemDetails {
  type: string;
  title: string;
  status: number;
  detail?: string | null;
  request_id?: string | null;
  views?: UnreadableView[] | null;
  errors?: InvalidValue[] | null;
}

export interface MemberName {
  name: string;
  hash: string;
}

export interface ModelName {
  name: string;
  hash: string;
  task: string;
  calibrated: boolean;
  members: MemberName[];
}

export interface CalibrationInfo {
  temperature: number;
  fitted_on: string | null;
}

export interface EnsembleInfo {
  name: string;
  hash: string;
  task: string;
  classes: string[];
  threshold: number | null;
  calibration: CalibrationInfo;
  usual: string | null;
}

export interface MemberInfo {
  serves: Served;
  name: string;
  family: string;
  task: string;
  classes: string[];
  body_parts: string[];
  metrics: Record<string, number>;
  hash: string;
  cohort_hash: string;
  weight: number;
  card: string;
}

export interface SpineModelInfo {
  name: string;
  hash: string;
  tasks: Record<string, string[]>;
}

export interface Rollout {
  ensemble: string;
  hash: string | null;
  id: string | null;
  state: "loading" | "served" | "refused";
  reason: string | null;
}

export interface Models {
  served: Served[];
  ensemble: EnsembleInfo | null;
  pairs: EnsembleInfo | null;
  spines: SpineModelInfo | null;
  members: MemberInfo[];
  rollout: Rollout | null;
}

export interface StudyResult {
  probabilities: Probabilities;
  label: string;
  threshold: number | null;
  views: number;
}

export interface KeyArea {
  member: string;
  name: string;
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Overlay {
  member: string;
  method: string;
  label: string;
  x: number;
  y: number;
  width: number;
  height: number;
  href: string | null;
  array: number[][] | null;
}

export interface ViewResult {
  index: number;
  name: string | null;
  format: string;
  rows: number;
  columns: number;
  body_part: string | null;
  probabilities: Probabilities;
  members: Record<string, Probabilities>;
  parts: Record<string, Record<string, Probabilities>>;
  boxes: KeyArea[];
  overlays: Overlay[];
}

export interface StudyAnswer {
  request_id: string | null;
  study: StudyResult;
  views: ViewResult[];
  unreadable: UnreadableView[];
  warnings: Doubt[];
  model: ModelName;
}

export interface PairResult {
  probabilities: Probabilities;
  label: string;
  threshold: number | null;
}

export interface PairImage {
  name: string | null;
  format: string;
  rows: number;
  columns: number;
}

export interface PairAnswer {
  request_id: string | null;
  pair: PairResult;
  members: Record<string, Probabilities>;
  before: PairImage;
  after: PairImage;
  warnings: Doubt[];
  model: ModelName;
}

export interface VolumeInfo {
  slices: number;
  rows: number;
  columns: number;
  spacing_mm: [number, number, number];
}

export interface BodyResult {
  level: string;
  slice: number;
  corners: [number, number][];
  score: number | null;
}

export interface Placement {
  slices: number[];
  matrix: [number, number, number, number, number, number];
  rows: number;
  columns: number;
}

export interface Grade {
  label: string;
  probabilities: Probabilities;
  hotspots: string[] | null;
}

export interface DiscResult {
  level: string;
  grades: Record<string, Grade>;
  placement: Placement | null;
  note: string | null;
}

export interface SpineAnswer {
  request_id: string | null;
  volume: VolumeInfo;
  bodies: BodyResult[];
  discs: DiscResult[];
  warnings: Doubt[];
  model: string;
}

export interface BatchEntry {
  index: number;
  name: string;
  answer: StudyAnswer | null;
  problem: ProblemDetails | null;
}

export interface Job {
  id: string;
  kind: "spine" | "batch";
  status: "waiting" | "running" | "done" | "failed";
  done: number;
  total: number;
  what: string;
  href: string;
  spine: SpineAnswer | null;
  batch: BatchEntry[] | null;
  problem: ProblemDetails | null;
}

export interface CorrectedBox {
  name: string;
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Feedback {
  id: string;
  time: string;
  who: string;
  image: string;
  patient: string;
  body_part: string | null;
  task: string;
  label: string | null;
  boxes: CorrectedBox[];
  reason: string;
  said: string | null;
  model: string;
}

/** What a reader sends as `correction`: the part of `Feedback` that only the reader and the page know. */
export type Correction = Pick<Feedback, "task" | "label" | "boxes" | "reason" | "said" | "model">;
