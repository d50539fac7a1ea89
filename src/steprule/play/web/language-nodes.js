// The graph: nodes as Python's graph/node.py has them, interned, with ranks as sets of bits.
(function (steprule) {
  "use strict";

  const language = (steprule.language ??= Object.create(null));
  let interned = new Map();

  /** One operation on earlier nodes; `attr` is a number, a name, {array, rank}, {kept: rank} or null. */
  class Node {
    constructor(op, inputs, attr, rank, id) {
      Object.assign(this, { op, inputs, attr, rank, id });
    }
    get row() {
      return language.tables().ops.get(this.op);
    }
    get kind() {
      return this.row.kind;
    }
    get truth() {
      return this.row.truth;
    }
    get array() {
      return this.op === "read" ? this.attr.array : "";
    }
    get axis() {
      return this.attr && this.attr.kept !== undefined ? this.attr.kept : null;
    }
  }

  const rank = {
    of: (name) => language.tables().ranks.get(name),
    name(value) {
      for (const [name, known] of language.tables().ranks) if (known === value) return name;
      return null;
    },
    word: (value) => String(rank.name(value)).toLowerCase(),
    /** Whether what varies so varies at most as the other does. */
    within: (a, b) => (a & b) === a,
    below: (a, b) => a !== b && (a & b) === a,
    each: (value) => language.tables().each.get(rank.name(value)),
    apart: (value) => value !== rank.of("ELEMENT") && language.tables().sides.has(rank.name(value)),
    /** The shape beside a tensor of so many rows and columns, seen as a matrix. */
    view(value, rows, columns) {
      const sides = language.tables().sides.get(rank.name(value));
      if (sides) return [...sides].map((side) => (side === "r" ? rows : columns));
      const has = (name) => rank.within(rank.of(name), value);
      return [has("ROW") ? rows : 1, has("COLUMN") ? columns : 1];
    },
  };

  function spelled(attr) {
    if (attr === null) return "";
    if (typeof attr === "number") return "n" + (Object.is(attr, -0) ? "-0" : attr);
    if (typeof attr === "string") return "s" + attr;
    return attr.kept === undefined ? `r${attr.rank}:${attr.array}` : "k" + attr.kept;
  }

  /** Return the rank of a function of matrices; null if its inputs do not fit together. */
  function product(op, inputs) {
    const maps = language.tables();
    const [taken, given] = maps.ops.get(op).sides.split("->");
    const known = new Map();
    const wanted = taken.split(",");
    for (const [place, sides] of wanted.entries()) {
      const own = maps.sides.get(rank.name(inputs[place].rank));
      if (!own) return null;
      for (const [i, side] of [...sides].entries()) {
        if (!known.has(side)) known.set(side, own[i]);
        if (known.get(side) !== own[i]) return null;
      }
    }
    if (inputs.slice(wanted.length).some((node) => node.rank !== rank.of("HOST"))) return null;
    const found = [...given].map((side) => known.get(side)).join("");
    for (const [name, sides] of maps.sides) if (sides === found) return rank.of(name);
    return null;
  }

  function rankOf(op, inputs, attr) {
    const kind = language.tables().ops.get(op).kind;
    if (op === "read") return attr.rank;
    if (kind === "chance") return rank.of("ELEMENT");
    if (kind === "tensor") return attr ? attr.kept : rank.of("TENSOR");
    if (kind === "global") return rank.of("GLOBAL");
    if (kind === "size") return rank.of("TENSOR");
    const found = kind === "matrix" ? product(op, inputs) : null;
    return found ?? inputs.reduce((all, node) => all | node.rank, rank.of("HOST"));
  }

  /** Return the one node with this operation, inputs and attribute. */
  function make(op, inputs = [], attr = null) {
    const key = [op, spelled(attr), ...inputs.map((node) => node.id)].join("|");
    let node = interned.get(key);
    if (!node) {
      node = new Node(op, inputs, attr, rankOf(op, inputs, attr), interned.size);
      interned.set(key, node);
    }
    return node;
  }

  /** List all nodes that roots need, inputs before users; none below `leaves`. */
  function topological(roots, leaves = new Set()) {
    const done = new Set();
    const stack = [...roots].reverse().map((root) => [root, false]);
    while (stack.length) {
      const [node, expanded] = stack.pop();
      if (done.has(node)) continue;
      if (expanded) {
        done.add(node);
        continue;
      }
      stack.push([node, true]);
      if (!leaves.has(node)) for (const child of [...node.inputs].reverse()) stack.push([child, false]);
    }
    return [...done];
  }

  /** Return what every tensor has of its own among what a number for all tensors is made of. */
  function toldApart(root) {
    const whole = new Set(topological([root]).filter((node) => node.kind === "global"));
    const own = (node) => node.op === "step" || (node.array && node.rank === rank.of("HOST"));
    return topological([root], whole).find(own) ?? null;
  }

  /** Map every node that roots need to its copy, in which some are replaced. */
  function substitute(roots, replacement) {
    const image = new Map();
    for (const node of topological(roots)) {
      const inputs = node.inputs.map((child) => image.get(child));
      image.set(node, replacement.get(node) ?? (inputs.length ? make(node.op, inputs, node.attr) : node));
    }
    return image;
  }

  Object.assign(language, {
    Node,
    rank,
    make,
    product,
    topological,
    toldApart,
    substitute,
    constant: (value) => make("const", [], value),
    hyper: (name) => make("hyper", [], name),
    step: () => make("step"),
    read: (array, ranked = rank.of("ELEMENT")) => make("read", [], { array, rank: ranked }),
    forget() {
      interned = new Map();
    },
  });
})((globalThis.steprule ??= {}));
