// The edited rule as one file of JavaScript: an ES module in float64, which imports nothing.
(function (steprule) {
  "use strict";

  const language = steprule.language;
  const { rank, topological } = language;
  const { told, format } = language.text;

  const key = (name) => JSON.stringify(name);
  const number = (value) =>
    value === Infinity ? "Infinity" : Object.is(value, -0) ? "(-0)" : value < 0 ? `(${value})` : String(value);

  /** Where the number of an array stands: one an element, a tensor, or for all. */
  const place = (ranked) => {
    if (ranked === rank.of("ELEMENT")) return "[k][i]";
    return ranked === rank.of("GLOBAL") ? "[0][0]" : "[k][0]";
  };

  /** What has no place in the file: matrices, rows and columns, random numbers, a point where the step ends. */
  function refuse(graph) {
    const ranks = ["HOST", "GLOBAL", "TENSOR", "ELEMENT"].map(rank.of);
    const kinds = new Set(["matrix", "chance"]);
    const node = graph.nodes.find(
      (one) => kinds.has(one.kind) || !ranks.includes(one.rank) || /^(rows|columns)$/.test(one.op),
    );
    if (!node && !graph.implicit) return;
    throw new language.Refusal(told("one file", { name: graph.name }), (node && graph.origins.get(node)) ?? null);
  }

  /** Writes one function: passes over all tensors, each as long as elements need no later reduction. */
  class Writer {
    constructor(graph, outputs) {
      Object.assign(this, { graph, outputs, names: new Map(), lines: [], depth: new Map(), reads: new Map() });
      this.nodes = topological(outputs.map(([, node]) => node));
      for (const node of this.nodes) {
        const behind = (child) => this.depth.get(child) + (child.row.reducer ? 1 : 0);
        this.depth.set(node, Math.max(0, ...node.inputs.map(behind)));
      }
      this.once = new Set();
      for (const node of this.nodes) if (this.alike(node)) this.once.add(node);
      this.passes = Math.max(...outputs.map(([, node]) => this.depth.get(node) + (node.row.reducer ? 1 : 0)));
    }
    /** Whether a value is the same for all tensors, and known before the first pass. */
    alike(node) {
      if (node.op === "read") return node.rank === rank.of("GLOBAL");
      if (node.kind === "leaf") return true;
      return !node.row.reducer && node.kind !== "size" && node.inputs.every((child) => this.once.has(child));
    }
    array(name) {
      if (!this.reads.has(name)) this.reads.set(name, `a${this.reads.size}`);
      return this.reads.get(name);
    }
    value(node) {
      if (node.op === "const") return number(node.attr);
      return this.names.get(node);
    }
    spelled(node) {
      if (node.op === "step") return "t";
      if (node.op === "hyper") return `hyper[${key(node.attr)}]`;
      if (node.op === "numel") return `${this.array(this.graph.parameter)}[k].length`;
      if (node.op === "read") return this.array(node.array) + place(node.rank);
      return format(
        node.row.spelling,
        node.inputs.map((child) => this.value(child)),
        {},
      );
    }
    define(node, indent) {
      if (node.op === "const" || this.names.has(node)) return;
      const text = this.spelled(node);
      this.names.set(node, `v${this.nodes.indexOf(node)}`);
      this.lines.push(`${indent}const ${this.names.get(node)} = ${text};`);
    }
    /** Write what is the same for all tensors. */
    host() {
      for (const node of this.nodes) if (this.once.has(node)) this.define(node, "  ");
    }
    pass(index) {
      const last = index === this.passes;
      const reductions = last ? [] : this.nodes.filter((node) => node.row.reducer && this.depth.get(node) === index);
      const outputs = last ? this.outputs.filter(([slot]) => slot?.rank !== rank.of("GLOBAL")) : [];
      const targets = [...reductions.map((node) => node.inputs[0]), ...outputs.map(([, node]) => node)];
      const known = new Set(this.nodes.filter((node) => this.names.has(node)));
      const needed = topological(targets, known);
      for (const node of reductions) this.open(node);
      const before = new Map(this.names);
      this.lines.push(`  for (let k = 0; k < ${this.array(this.graph.parameter)}.length; k++) {`);
      for (const node of reductions.filter((one) => one.kind !== "global")) {
        this.lines.push(`    let ${this.total(node)} = ${number(this.start(node))};`);
      }
      const element = (node) => node.rank === rank.of("ELEMENT");
      needed.filter((node) => !element(node)).forEach((node) => this.define(node, "    "));
      this.lines.push(`    for (let i = 0; i < ${this.array(this.graph.parameter)}[k].length; i++) {`);
      needed.filter(element).forEach((node) => this.define(node, "      "));
      reductions.forEach((node) => this.accumulate(node));
      outputs.forEach(([slot, node]) => this.store(slot, node, true));
      this.lines.push("    }");
      reductions.forEach((node) => this.close(node));
      outputs.forEach(([slot, node]) => this.store(slot, node, false));
      this.lines.push("  }");
      this.names = before;
      for (const node of reductions) this.finish(node);
    }
    start(node) {
      return Number(node.row.reducer.init.replace("inf", "Infinity"));
    }
    total(node) {
      return `s${this.nodes.indexOf(node)}`;
    }
    op(name, ...inputs) {
      return format(language.tables().ops.get(name).spelling, inputs, {});
    }
    open(node) {
      const text =
        node.kind === "global"
          ? `let ${this.total(node)} = ${number(this.start(node))};`
          : `const r${this.nodes.indexOf(node)} = [];`;
      this.lines.push(`  ${text}`);
    }
    accumulate(node) {
      const { each, combine } = node.row.reducer;
      const value = this.value(node.inputs[0]);
      const own = each ? this.op(each, value, value) : value;
      this.lines.push(`      ${this.total(node)} = ${this.op(combine, this.total(node), own)};`);
    }
    finished(node, count) {
      const { finish } = node.row.reducer;
      return finish ? this.op(finish, this.total(node), count) : this.total(node);
    }
    close(node) {
      if (node.kind === "global") return;
      const count = `${this.array(this.graph.parameter)}[k].length`;
      this.lines.push(`    r${this.nodes.indexOf(node)}.push(${this.finished(node, count)});`);
    }
    finish(node) {
      if (node.kind !== "global") return void this.names.set(node, `r${this.nodes.indexOf(node)}[k]`);
      this.names.set(node, `v${this.nodes.indexOf(node)}`);
      this.lines.push(`  const ${this.names.get(node)} = ${this.finished(node, "")};`);
    }
    /** Store a new value: of elements in their loop, of a number a tensor behind it. */
    store(slot, node, inside) {
      const whole = slot === null || slot.rank === rank.of("ELEMENT");
      if (whole !== inside) return;
      const array = slot === null ? "out" : this.array(slot.name);
      const target = `${array}[k]${inside ? "[i]" : "[0]"}`;
      this.lines.push(`${inside ? "      " : "    "}${target} = ${this.value(node)};`);
    }
    /** What all tensors share is written when all have ended. */
    shared() {
      const outputs = this.outputs.filter(([slot]) => slot?.rank === rank.of("GLOBAL"));
      const known = new Set(this.nodes.filter((node) => this.names.has(node)));
      for (const node of topological(
        outputs.map(([, node]) => node),
        known,
      ))
        this.define(node, "  ");
      for (const [slot, node] of outputs) this.lines.push(`  ${this.array(slot.name)}[0][0] = ${this.value(node)};`);
    }
    written(name, first, end) {
      this.host();
      for (let index = 0; index <= this.passes; index++) this.pass(index);
      this.shared();
      const reads = [...this.reads].map(([own, short]) => `  const ${short} = arrays[${key(own)}];`);
      return [`function ${name}(arrays, hyper, t) {`, ...reads, ...first, ...this.lines, ...end, "}"].join("\n");
    }
  }

  function stepOf(graph) {
    const parameter = { name: graph.parameter, rank: rank.of("ELEMENT") };
    const slots = graph.slots
      .filter((slot) => slot.name !== graph.first)
      .map((slot) => [slot, graph.newSlots[graph.slots.indexOf(slot)]]);
    return new Writer(graph, [[parameter, graph.newParameter], ...slots]).written("step", [], []);
  }

  function pointOf(graph) {
    const theta = `arrays[${key(graph.parameter)}]`;
    const first = [`  const out = ${theta}.map((x) => new Float64Array(x.length));`];
    return new Writer(graph, [[null, graph.evaluateAt]]).written("point", first, ["  return out;"]);
  }

  function startOf(graph) {
    const begun = (slot) => {
      if (slot.init === "theta") return "theta.map((x) => Float64Array.from(x))";
      const value = number(slot.init);
      if (slot.rank === rank.of("GLOBAL")) return `[Float64Array.of(${value})]`;
      return slot.rank === rank.of("ELEMENT")
        ? `theta.map((x) => new Float64Array(x.length).fill(${value}))`
        : `theta.map(() => Float64Array.of(${value}))`;
    };
    const slots = graph.slots
      .filter((slot) => slot.name !== graph.first)
      .map((slot) => `    [${key(slot.name)}]: ${begun(slot)},`);
    return ["function start(theta) {", "  return {", ...slots, "  };", "}"].join("\n");
  }

  function hypersOf(rule) {
    const lines = rule.hypers.map(({ name, value }) => `  [${key(name)}]: ${value === null ? "NaN" : number(value)},`);
    return ["const defaults = {", ...lines, "};"].join("\n");
  }

  function header(rule) {
    const lines = steprule.facts.one_file.map((line) =>
      format(line, [], { name: rule.name, version: steprule.facts.version }),
    );
    const all = [
      ...lines.slice(0, 1),
      "",
      ...rule.text.split("\n").map((line) => `    ${line}`),
      "",
      ...lines.slice(1),
    ];
    return ["/**", ...all.map((line) => ` * ${line}`.trimEnd().replaceAll("*/", "* /")), " */"].join("\n");
  }

  /**
   * Return a rule as one file of JavaScript.
   * @param {object} rule what `steprule.build` has read
   * @returns {string} an ES module with `start(theta)`, `step(arrays, hyper, t)`, `defaults`, and `point` if its gradient
   *   is taken elsewhere
   */
  steprule.javascript = function (rule) {
    const { graph } = rule;
    refuse(graph);
    const functions = [startOf(graph), stepOf(graph), ...(graph.evaluateAt ? [pointOf(graph)] : [])];
    const body = functions.join("\n\n");
    const helpers = Object.entries(steprule.facts.helpers)
      .filter(([name]) => body.includes(`${name}(`))
      .map(([, text]) => text.trim());
    const point = graph.evaluateAt ? ["point"] : [];
    const names = ["defaults", ...point, "start", "step"].join(", ");
    return [header(rule), hypersOf(rule), ...helpers, body, `export { ${names} };\n`].join("\n\n");
  };
})((globalThis.steprule ??= {}));
