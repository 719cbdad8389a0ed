// All that the page asks of the server: the token, problems in words, and asking again when the server is busy.
// Addresses are relative to the page, so that it works behind a proxy that serves it under a prefix.

import type { ProblemDetails } from "./contract";

const TOKEN = "mskray-token";
/** After so many refusals for want of room the reader decides. */
const MOST_REPEATS = 5;
/** No server is waited for longer at a time, s. */
const LONGEST_WAIT = 60;
const REPEATED = new Set([429, 503]);
const PROBLEM = "application/problem+json";

/** An answer that is a problem (RFC 9457), or no answer at all. */
export class Refused extends Error {
  constructor(
    readonly problem: ProblemDetails,
    readonly method = "",
  ) {
    super(problem.detail ?? problem.title);
  }
}

export interface Asked {
  method?: "GET" | "POST";
  form?: FormData;
  signal?: AbortSignal;
  /** Told while the server is waited for, null when it is asked again. */
  onWait?: (words: string | null) => void;
}

type AskForToken = (refused: boolean) => Promise<string>;

let askForToken: AskForToken | undefined;
let pending: Promise<void> | undefined;

/** Say who asks the reader for a token; a promise that never comes keeps the request waiting. */
export function onTokenNeeded(ask: AskForToken): void {
  askForToken = ask;
}

export function address(path: string): string {
  return new URL(path.replace(/^\//, ""), document.baseURI).href;
}

export async function json<T>(path: string, asked: Asked = {}): Promise<T> {
  return (await (await ask(path, asked)).json()) as T;
}

/** Return the server's answer of 2xx. Raises Refused, or an AbortError when the reader stopped. */
export async function ask(path: string, asked: Asked = {}): Promise<Response> {
  for (let repeats = 0; ; ) {
    const sent = sessionStorage.getItem(TOKEN);
    const response = await send(path, asked, sent);
    if (response.ok) {
      return response;
    }
    if (response.status === 401 && askForToken) {
      await newToken(sent);
      continue;
    }
    const refused = new Refused(await problemOf(response), asked.method ?? "GET");
    const seconds = retryAfter(response);
    if (seconds === null || repeats >= MOST_REPEATS) {
      throw refused;
    }
    repeats += 1;
    asked.onWait?.(`${refused.message} – asking again in ${seconds} s (${repeats} of ${MOST_REPEATS})`);
    await pause(seconds * 1000, asked.signal);
    asked.onWait?.(null);
  }
}

async function send(path: string, asked: Asked, token: string | null): Promise<Response> {
  try {
    return await fetch(address(path), {
      method: asked.method ?? "GET",
      body: asked.form,
      signal: asked.signal,
      headers: token ? { Authorization: `Bearer ${token}` } : {},
      credentials: "omit",
      cache: "no-store",
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") {
      throw error;
    }
    throw new Refused({
      type: "about:blank",
      title: "No answer",
      status: 0,
      detail: "the server does not answer: look whether it runs and whether this machine reaches it",
    });
  }
}

/** Ask once for all requests that were refused with the same token. */
async function newToken(refused: string | null): Promise<void> {
  if (refused !== sessionStorage.getItem(TOKEN)) {
    return;
  }
  pending ??= askForToken!(refused !== null)
    .then((token) => sessionStorage.setItem(TOKEN, token))
    .finally(() => (pending = undefined));
  await pending;
}

async function problemOf(response: Response): Promise<ProblemDetails> {
  const title = response.statusText || `HTTP ${response.status}`;
  try {
    const told = (await response.json()) as Partial<ProblemDetails>;
    return { ...told, type: told.type ?? "about:blank", title: told.title ?? title, status: response.status };
  } catch {
    return { type: "about:blank", title, status: response.status };
  }
}

/**
 * Seconds after which to ask again; null where that is of no use. The server says so with every problem that passes,
 * as a number or a date; a proxy before it may not.
 */
function retryAfter(response: Response): number | null {
  const told = response.headers.get("Retry-After");
  const ours = response.headers.get("Content-Type")?.startsWith(PROBLEM);
  if (!REPEATED.has(response.status) || (told === null && ours)) {
    return null;
  }
  const seconds = Number(told ?? 5);
  const wanted = Number.isFinite(seconds) ? seconds : (Date.parse(told!) - Date.now()) / 1000;
  return Math.round(Math.min(Math.max(Number.isFinite(wanted) ? wanted : 5, 1), LONGEST_WAIT));
}

export function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    if (signal?.aborted) {
      stop();
    }
    signal?.addEventListener("abort", stop, { once: true });
  });
}
