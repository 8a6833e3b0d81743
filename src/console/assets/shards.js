// The list of shards, and one of them.
import { ask, bytes, count, el, link, mark, panel, range, say, table, whole } from "./dom.js";

const PAGE = 50;
const ORDERS = [["key", "key"], ["id", "id"], ["requests", "requests"], ["reads", "reads"], ["writes", "writes"], ["bytes", "written bytes"],
  ["size", "size"], ["log", "log"], ["pending", "waiting"]];
const KINDS = [["", "all shards"], ["leaderless", "without a leader"], ["lacking", "lacking a replica"]];

const replica = (show) => (row) => (row.replica ? show(row.replica) : "–");
const nothing = (value, text) => (value ? text : "·");

export function shards(frame, _, where) {
  const view = { q: "", by: "key", kind: "", node: "", offset: 0 };
  const search = el("input", { type: "search", class: "search", placeholder: "Key or shard id", "aria-label": "Key or shard id",
    autocomplete: "off", spellcheck: "false", autocapitalize: "off" });
  const select = (label, options) => el("select", { "aria-label": label }, options.map(([value, text]) => el("option", { value }, text)));
  const order = select("Sorted by", ORDERS.map(([value, text]) => [value, `by ${text}`]));
  const kind = select("Which", KINDS);
  const node = select("Node", [["", "on any node"]]);
  const change = (name, value) => {
    view[name] = value;
    view.offset = 0;
    where.again();
  };
  let typing;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => change("q", search.value), 200);
  });
  order.addEventListener("change", () => change("by", order.value));
  kind.addEventListener("change", () => change("kind", kind.value));
  node.addEventListener("change", () => change("node", node.value));
  const sort = (by) => {
    order.value = by;
    change("by", by);
  };
  const list = table("Shards", [
    { title: "Shard", sort: "id", show: (row, cell) => link(cell, String(row.shard), `#/shards/${row.shard}`) },
    { title: "Keys", class: "key", sort: "key", show: (row, cell) => (mark(cell, "title", range(row.start, row.end)), range(row.start, row.end)) },
    { title: "Leader", class: "num", show: (row, cell) => (mark(cell, "class", row.leader === null ? "num bad" : "num"), row.leader === null ? "none" : String(row.leader)) },
    { title: "Nodes", class: "more", show: (row) => row.nodes.join(" ") },
    { title: "Reads/s", class: "num", sort: "reads", show: replica((its) => nothing(its.load.reads, count(its.load.reads))) },
    { title: "Writes/s", class: "num", sort: "writes", show: replica((its) => nothing(its.load.writes, count(its.load.writes))) },
    { title: "Written/s", class: "num more", sort: "bytes", show: replica((its) => nothing(its.load.bytes, bytes(its.load.bytes))) },
    { title: "Size", class: "num more", sort: "size", hint: "in files, compressed", show: replica((its) => bytes(its.data_bytes)) },
    { title: "Log", class: "num spare", sort: "log", show: replica((its) => bytes(its.log_bytes)) },
    { title: "Epoch", class: "num spare", hint: "changes of replicas · of the range", show: (row) => row.epoch.join("·") },
    { title: "Term", class: "num spare", show: replica((its) => whole(its.term)) },
    { title: "Applied", class: "num spare", show: replica((its) => whole(its.applied)) },
    { title: "Waiting", class: "num spare", sort: "pending", show: replica((its) => nothing(its.pending, whole(its.pending))) },
    { title: "Is", class: "more", show: (row, cell) => {
      const its = row.replica;
      const bad = its?.missing > 0;
      mark(cell, "class", bad ? "more fair" : "more dim");
      return !its ? "unknown" : bad ? `lacks ${its.missing}` : its.resting ? "resting" : "awake";
    } },
  ], { empty: "no such shard", sort });
  const total = el("p", { class: "note", role: "status" });
  const back = el("button", { type: "button", onclick: () => turn(-PAGE) }, "Previous");
  const next = el("button", { type: "button", onclick: () => turn(PAGE) }, "Next");
  const problem = el("p", { class: "note bad", role: "alert" });
  const turn = (by) => {
    view.offset = Math.max(0, view.offset + by);
    where.again();
  };
  frame.append(
    el("div", { class: "head" }, el("h1", {}, "Shards")),
    el("form", { class: "tools", role: "search" }, search, order, kind, node),
    problem,
    el("section", { class: "panel", "aria-label": "Shards" }, list.element),
    el("div", { class: "pager" }, total, back, next),
  );
  frame.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  return {
    every: 5000,
    cluster: (now) => {
      const known = [...node.options].slice(1).map((option) => option.value).join();
      if (known !== now.nodes.map((each) => each.node).join()) {
        node.replaceChildren(el("option", { value: "" }, "on any node"), ...now.nodes.map((each) => el("option", { value: each.node }, `on node ${each.node}`)));
      }
    },
    refresh: async (signal) => {
      const query = new URLSearchParams({ by: view.by, offset: view.offset, limit: PAGE });
      if (view.q) query.set("q", view.q);
      if (view.node) query.set("node", view.node);
      if (view.kind) query.set(view.kind, true);
      let found;
      try {
        found = await ask(`/console/api/shards?${query}`, signal);
        say(problem, "");
      } catch (error) {
        if (signal.aborted || !view.q) throw error;
        // What was typed is no key: that is no fault of the node.
        say(problem, error.message);
        return;
      }
      list.update(found.shards, (row) => row.shard, (row, line) => mark(line, "data-shard", row.shard));
      list.sorted(view.q ? "" : view.by, view.by === "key" || view.by === "id");
      const last = found.offset + found.shards.length;
      say(total, found.total ? `${whole(found.shards.length ? found.offset + 1 : 0)} to ${whole(last)} of ${whole(found.total)}` : "");
      back.disabled = found.offset === 0;
      next.disabled = last >= found.total;
    },
  };
}

/** One shard: its place in the cluster, and its replicas as their nodes see them. */
export function shard(frame, id) {
  const facts = el("dl", { class: "facts" });
  const sign = el("span", { class: "dim key" });
  const on = (show) => (each) => (each.replica ? show(each.replica) : "–");
  const replicas = table("Replicas", [
    { title: "Node", show: (each, cell) => link(cell, String(each.node), `#/nodes/${each.node}`) },
    { title: "Role", show: (each, cell) => (mark(cell, "class", each.problem ? "bad" : undefined), each.replica?.role ?? each.problem ?? "no replica") },
    { title: "Term", class: "num", show: on((its) => whole(its.term)) },
    { title: "Committed", class: "num", show: on((its) => whole(its.commit)) },
    { title: "Applied", class: "num", show: on((its) => whole(its.applied)) },
    { title: "End of log", class: "num more", show: on((its) => whole(its.last)) },
    { title: "Cut up to", class: "num more", show: on((its) => whole(its.compacted)) },
    { title: "Log", class: "num more", show: on((its) => bytes(its.log_bytes)) },
    { title: "Size", class: "num more", show: on((its) => bytes(its.data_bytes)) },
    { title: "Reads/s", class: "num", show: on((its) => count(its.load.reads)) },
    { title: "Writes/s", class: "num more", show: on((its) => count(its.load.writes)) },
    { title: "Is", class: "more dim", show: on((its) => (its.resting ? "resting" : "awake")) },
  ]);
  frame.append(el("div", { class: "head" }, el("h1", {}, `Shard ${id}`), sign), panel("Shard", facts), panel("Replicas", replicas.element));
  return {
    every: 2000,
    refresh: async (signal) => {
      const page = await ask(`/console/api/shards/${encodeURIComponent(id)}`, signal);
      const { start, end, leader, epoch, nodes, replica: its } = page.shard;
      const fact = (name, value, style) => el("div", {}, el("dt", {}, name), el("dd", { class: style }, value));
      facts.replaceChildren(
        fact("First key", start === "" ? "start of the keyspace" : start, "key"),
        fact("First key behind it", end === "" ? "end of the keyspace" : end, "key"),
        fact("Leader", leader === null ? "none" : `node ${leader}`, leader === null ? "bad" : undefined),
        fact("Nodes", nodes.join(", ")), fact("Epoch: replicas · range", epoch.join(" · ")),
        ...(its ? [fact("Reads", `${count(its.load.reads)}/s`), fact("Writes", `${count(its.load.writes)}/s`),
          fact("Written", `${bytes(its.load.bytes)}/s`), fact("Writes waiting", whole(its.pending)),
          fact("Replicas that lag", whole(its.missing), its.missing ? "fair" : undefined)] : []),
      );
      say(sign, range(start, end));
      replicas.update(page.replicas, (each) => each.node);
    },
  };
}
