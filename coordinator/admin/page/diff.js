// The difference between the manifests of two generations.

import { el } from "./dom.js";
import { moment, short, size } from "./words.js";

/** What has become of each artifact: [{name, what, before, after}], changes first. Pure. */
function artifactsOf(before, after) {
  const old = new Map((before.artifacts ?? []).map((artifact) => [artifact.name, artifact]));
  const now = new Map((after.artifacts ?? []).map((artifact) => [artifact.name, artifact]));
  const names = [...new Set([...old.keys(), ...now.keys()])].sort();
  const rows = names.map((name) => {
    const [from, to] = [old.get(name), now.get(name)];
    return { name, before: from, after: to, what: changeOf(from, to) };
  });
  return rows.sort((a, b) => (a.what === "same") - (b.what === "same"));
}

function changeOf(before, after) {
  if (!before) return "added";
  if (!after) return "removed";
  return before.digest === after.digest ? "same" : "changed";
}

/** The facts in which two generations differ: [[name, before, after]]. Pure, but for the time zone. */
function factsOf(before, after, now) {
  const facts = [
    ["Message", (row) => row.message],
    ["By", (row) => row.author],
    ["Staged", (row) => (row.created_at ? moment(row.created_at, now) : "")],
    ["Source", sourceOf],
    ["Metrics", metricsOf],
  ];
  return facts.map(([name, read]) => [name, read(before) || "–", read(after) || "–"]).filter(([, old, fresh]) => old !== fresh);
}

const sourceOf = (row) => (row.artifacts ?? []).map((artifact) => artifact.source).filter(Boolean).join(", ");

/** "val_loss 0.25, accuracy 0.9". Pure. */
export const metricsOf = (row) => Object.entries(row.metrics ?? {}).map(([name, value]) => `${name} ${Number(value.toPrecision(4))}`).join(", ");

/** Both as elements. */
export function difference(before, after, now) {
  if (!before.artifacts?.length || !after.artifacts?.length) {
    return [el("p", { class: "none" }, "The manifest of one of them is not kept any more.")];
  }
  const artifacts = artifactsOf(before, after);
  const facts = factsOf(before, after, now);
  const same = artifacts.every((row) => row.what === "same") ? el("p", {}, "Both have the same content.") : null;
  return [same, artifactTable(artifacts, before, after), facts.length ? factTable(facts, before, after) : null];
}

function artifactTable(rows, before, after) {
  const cell = (artifact) => (artifact ? [size(artifact.size), el("span", { class: "code under" }, short(artifact.digest))] : ["–"]);
  const body = rows.map(({ name, what, before: old, after: fresh }) => {
    const cells = [[what], cell(old), cell(fresh)].map((children) => el("td", {}, ...children));
    return el("tr", { class: what }, el("th", { scope: "row" }, name), ...cells);
  });
  return table("Artifacts of both generations", ["Artifact", "Change", ...headsOf(before, after)], body);
}

function factTable(facts, before, after) {
  const body = facts.map(([name, old, fresh]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, old), el("td", {}, fresh)));
  return table("Facts in which both differ", ["Fact", ...headsOf(before, after)], body);
}

const headsOf = (before, after) => [`In ${before.generation}`, `In ${after.generation}`];

function table(caption, heads, body) {
  return el("table", { class: "difference" }, el("caption", { class: "unseen" }, caption),
    el("thead", {}, el("tr", {}, ...heads.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, ...body));
}
