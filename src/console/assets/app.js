// Which page is shown, and how it is kept up to date.
import { activity } from "./activity.js";
import { ask, clock, el, mark, say } from "./dom.js";
import { heat } from "./heat.js";
import { node, overview } from "./overview.js";
import { shard, shards } from "./shards.js";

// A page gets its frame, what its address names, and `again`, which asks anew. It gives back what to do with the cluster's
// state, and with what it asks itself.
const PAGES = [
  [/^\/$/, overview, "Overview", "#/"],
  [/^\/heat$/, heat, "Heat map", "#/heat"],
  [/^\/shards$/, shards, "Shards", "#/shards"],
  [/^\/activity$/, activity, "Activity", "#/activity"],
  [/^\/shards\/(\d+)$/, shard, "Shard"],
  [/^\/nodes\/(\d+)$/, node, "Node"],
];
const EVERY = 2000;
const PATIENCE = 8000;

const byId = (id) => document.getElementById(id);
const main = byId("main");
const alarm = byId("alarm");
let page = null;
let last = null;
let turn = new AbortController();
let failures = 0;

const wait = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
});
const seen = (signal) => new Promise((resolve) => {
  if (!document.hidden) resolve();
  document.addEventListener("visibilitychange", resolve, { once: true, signal });
});

/** Asks again and again until the page is left; what is not looked at asks nothing. */
async function keep(every, refresh, signal) {
  while (!signal.aborted) {
    await seen(signal);
    try {
      await refresh(AbortSignal.any([signal, AbortSignal.timeout(PATIENCE)]));
      if (signal.aborted) return;
      told(null);
    } catch (error) {
      if (signal.aborted) return;
      told(error);
    }
    await wait(every, signal);
  }
}

function told(error) {
  failures = error ? failures + 1 : 0;
  // One answer that is lost is no news.
  const lost = failures >= 2;
  const silent = error instanceof TypeError || error?.name === "TimeoutError";
  alarm.hidden = !lost;
  if (lost) say(alarm, silent ? "This node does not answer. What is shown is old." : `This node says: ${error.message}`);
  main.classList.toggle("old", lost);
  const live = byId("live");
  mark(live, "data-state", lost ? "lost" : "live");
  say(live, lost ? "lost" : "live");
  mark(live, "title", last ? `last answer ${clock(last.now_ms)}` : undefined);
}

async function cluster(signal) {
  last = await ask("/console/api/cluster", signal);
  say(byId("whose"), `cluster ${last.cluster_id.slice(0, 8)} · node ${last.asked}`);
  const wrong = last.nodes.filter((each) => each.state !== "ready").length;
  document.title = `${wrong ? `(${wrong}) ` : ""}Flotilla`;
  page?.cluster?.(last);
}

function open() {
  const path = location.hash.slice(1) || "/";
  const [form, make] = PAGES.find(([form]) => form.test(path)) ?? PAGES[0];
  turn.abort();
  turn = new AbortController();
  const { signal } = turn;
  main.replaceChildren();
  let asking = new AbortController();
  const start = () => {
    asking.abort();
    asking = new AbortController();
    keep(page.every, page.refresh, AbortSignal.any([signal, asking.signal]));
  };
  page = make(main, form.exec(path)?.[1], { again: () => start() });
  for (const link of byId("nav").children) {
    const here = link.hash === "#/" ? path === "/" || path.startsWith("/nodes") : path.startsWith(link.hash.slice(1));
    mark(link, "aria-current", here && "page");
  }
  if (last) page.cluster?.(last);
  keep(EVERY, cluster, signal);
  if (page.refresh) start();
}

const themes = { "": "auto", light: "light", dark: "dark" };

function theme(name) {
  mark(document.documentElement, "data-theme", name || null);
  say(byId("theme"), `theme: ${themes[name]}`);
  page?.theme?.();
}

byId("nav").append(...PAGES.filter(([, , , address]) => address).map(([, , title, href]) => el("a", { href }, title)));
byId("theme").addEventListener("click", () => {
  const names = Object.keys(themes);
  const name = names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length];
  localStorage.setItem("theme", name);
  theme(name);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page?.theme?.());
addEventListener("hashchange", () => {
  open();
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
});
theme(localStorage.getItem("theme") ?? "");
open();
