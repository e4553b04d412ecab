// The admin's HTTP: one call, and the stream of events. The token stays in sessionStorage and travels in a header.

const KEY = "genlock.token";

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

const PROBLEM = "application/problem+json";

/** The answer is an error. `status`: of HTTP; `retry`: seconds until another try makes sense; `isOpen`: what was asked may have been done
 *  or not: the admin does not know it (504), or it was not the admin that answered, but something before it. */
export class Problem extends Error {
  constructor(status, { title, detail }, { retry, isOurs }) {
    super(detail || title || `the admin answered ${status}`);
    Object.assign(this, { status, title, retry, isOpen: status === 504 || !isOurs });
  }
}

/** No answer came; what was asked may have been done or not. */
export class NoAnswer extends Error {
  isOpen = true;
}

async function send(path, options) {
  try {
    return await fetch(`api/v1/${path}`, { cache: "no-store", credentials: "omit", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new NoAnswer("the admin does not answer");
  }
}

const headers = (more) => ({ authorization: `Bearer ${token.get()}`, ...more });

async function problemOf(response) {
  const said = (await response.json().catch(() => null)) ?? {};
  const retry = Number(response.headers.get("retry-after")) || null;
  const isOurs = (response.headers.get("content-type") ?? "").startsWith(PROBLEM);
  return new Problem(response.status, said, { retry, isOurs });
}

/** The JSON of a GET. Raises Problem, NoAnswer. */
export async function get(path) {
  const response = await send(path, { headers: headers() });
  if (!response.ok) throw await problemOf(response);
  return response.json();
}

/** The JSON of a POST; the same `key` again asks for the same change, which is not done twice. Raises Problem, NoAnswer. */
export async function post(path, body, key) {
  const response = await send(path, {
    method: "POST",
    headers: headers({ "content-type": "application/json", "idempotency-key": key }),
    body: JSON.stringify(body),
  });
  if (!response.ok) throw await problemOf(response);
  try {
    return await response.json();
  } catch {
    throw new NoAnswer("the answer of the admin broke off");
  }
}

/** A request id: 32 hexadecimal digits. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Server-sent events behind `lastId`, until the connection ends: calls tell(event, data, id), and heard() for every piece. */
export async function follow(lastId, { tell, heard, signal }) {
  const more = lastId ? { "last-event-id": lastId } : {};
  const response = await send("events?follow=1&state=1", { headers: headers(more), signal });
  if (!response.ok) throw await problemOf(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parse = parser(tell);
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    parse(value);
  }
}

/** Reads an event stream piece by piece (HTML, 9.2.6). */
function parser(tell) {
  let rest = "";
  let event = { name: "", id: "", data: [] };
  const line = (text) => {
    if (text === "") {
      if (event.data.length) tell(event.name || "message", JSON.parse(event.data.join("\n")), event.id);
      event = { name: "", id: "", data: [] };
      return;
    }
    const [field, value] = split(text);
    if (field === "event") event.name = value;
    else if (field === "id") event.id = value;
    else if (field === "data") event.data.push(value);
  };
  return (piece) => {
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    for (const text of lines) line(text.endsWith("\r") ? text.slice(0, -1) : text);
  };
}

function split(text) {
  const colon = text.indexOf(":");
  if (colon < 0) return [text, ""];
  return [text.slice(0, colon), text.slice(text[colon + 1] === " " ? colon + 2 : colon + 1)];
}
