// The printer: a graph as the whiteboard writes it, in text and in LaTeX; graph/show.py in JavaScript, with its tables.
(function (steprule) {
  "use strict";

  const language = (steprule.language ??= Object.create(null));
  const { rank, make, read, constant, topological } = language;
  const { general, format } = language.text;
  const ALONE = -1;

  const lifted = (digits, table) => [...digits].map((digit) => table[digit]).join("");

  /** Spell a name as mathematics does: `beta1` is β₁, `lr` is η, `max_norm` is S_g. */
  function symbol(name, latex) {
    const { greek, letters, board } = language.tables();
    if (board.has(name)) return board.get(name)[latex ? 1 : 0];
    const match = /^([\p{L}\p{M}_\p{Pc}]+?)_?(\p{Nd}*)$/u.exec(name);
    const [stem, digits] = match ? [match[1], match[2]] : [name, ""];
    const letter = greek.get(stem) ?? stem;
    if (!latex) return letter + lifted(digits, steprule.facts.subscripts);
    const single = [...stem].length === 1 && stem !== "_";
    const plain = single ? stem : `\\mathrm{${stem.replaceAll("_", "\\_")}}`;
    const spelled = letters.get(letter) ?? plain;
    return digits ? `${spelled}_{${digits}}` : spelled;
  }

  function numeral(value, latex) {
    const text = general(value, 12);
    const [mantissa, exponent] = text.split("e");
    if (exponent === undefined) return text;
    const power = String(Number(exponent));
    if (!latex) return `${mantissa}e${power}`;
    return mantissa === "1" ? `10^{${power}}` : `${mantissa} \\cdot 10^{${power}}`;
  }

  /** Prints nodes; `names` holds those that already stand on the left of a line. */
  class Printer {
    constructor(graph, names, latex, cases) {
      Object.assign(this, { graph, names, latex, cases });
      this.draws = graph.nodes.filter((node) => node.kind === "chance").length;
    }
    dated(name, before) {
      const spelled = symbol(name, this.latex);
      if (!this.latex) return spelled + (before ? "ₜ₋₁" : "ₜ");
      return (spelled.includes("_") ? `{${spelled}}` : spelled) + (before ? "_{t-1}" : "_{t}");
    }
    atParameter() {
      const below = symbol(this.graph.parameter, this.latex);
      return symbol(this.graph.gradient, this.latex) + (this.latex ? `_{${below}}` : `_${below}`);
    }
    leaf(node) {
      if (node.op === "const") return numeral(node.attr, this.latex);
      if (node.op === "step") return "t";
      if (node.op === "hyper") return symbol(node.attr, this.latex);
      if (node.array === this.graph.gradient) return symbol(node.array, this.latex);
      return node.array === this.graph.first ? this.atParameter() : this.dated(node.array, true);
    }
    inner(node, least) {
      if (this.names.has(node)) return this.names.get(node);
      const text = this.show(node);
      const negative = node.op === "const" && /^[-−]/.test(text);
      return (negative ? 3 : node.row.binding) >= least ? text : this.brackets(text);
    }
    brackets(text) {
      return this.latex ? `\\left( ${text} \\right)` : `(${text})`;
    }
    drawn(node, template) {
      const number = this.draws > 1 ? String(node.attr + 1) : "";
      const under = this.latex && number ? `_{${number}}` : lifted(number, steprule.facts.subscripts);
      return format(template, [under], {});
    }
    where(node) {
      const [condition, yes, no] = node.inputs.map((child) => this.inner(child, ALONE));
      return format(steprule.facts.cases, [], { condition, yes, no });
    }
    show(node) {
      const { row } = node;
      let template = this.latex ? row.latex : row.text;
      if (node.kind === "leaf") return this.leaf(node);
      if (node.kind === "chance") return this.drawn(node, template);
      if (node.op === "pow" && !this.latex && node.inputs[1].op === "const") {
        const exponent = this.leaf(node.inputs[1]);
        if (/^\d+$/.test(exponent))
          return this.inner(node.inputs[0], 9) + lifted(exponent, steprule.facts.superscripts);
      }
      if (node.op === "where" && this.cases) return this.where(node);
      const divides = node.inputs.some((child) => child.op === "div" && !this.names.has(child));
      if (node.op === "mul" && !this.latex && divides) template = "{} · {}";
      const texts = node.inputs.map((child, i) => this.inner(child, this.least(node, i)));
      if (["add", "sub", "mul"].includes(node.op) && /^[-−]/.test(texts[1])) texts[1] = this.brackets(texts[1]);
      const axis = node.axis === null ? "" : rank.word(node.axis);
      const under = axis ? (this.latex ? `_{\\mathrm{${axis}}}` : `_${axis}`) : "";
      return format(template, texts, { each: axis || "tensor", under });
    }
    /** How tightly the input at a place must bind to stand without brackets. */
    least(node, place) {
      const own = node.row.binding;
      const fraction = node.op === "div" && this.latex;
      if (fraction || (node.op === "pow" && place === 1 && this.latex) || own === 9) return ALONE;
      if (node.op === "pow" || node.op === "matmul") return node.op === "pow" ? 9 : 4;
      const tighter = (["sub", "div"].includes(node.op) && place === 1) || node.op === "neg";
      return tighter ? own + 1 : own;
    }
  }

  function longParts(node, names) {
    const size = new Map();
    const parts = [];
    for (const part of topological([node], names)) {
      const all = part.inputs.reduce((sum, child) => sum + (size.get(child) ?? 0), 1);
      size.set(part, names.has(part) ? 1 : all);
      if (size.get(part) > steprule.facts.longest_line && part !== node) {
        size.set(part, 1);
        parts.push(part);
      }
    }
    return parts;
  }

  function unsaid(graph, name, node) {
    const passed = graph.evaluateAt !== null && node === read(graph.gradient);
    const alone = name === graph.parameter && (passed || graph.gradients.get(node) === graph.name);
    return alone || name === graph.first;
  }

  class Lines {
    constructor(graph, latex, cases) {
      Object.assign(this, { graph, latex, names: new Map(), lines: [], number: 1 });
      this.printer = new Printer(graph, this.names, latex, cases);
    }
    nameParts(node) {
      for (const part of longParts(node, this.names)) {
        const left = symbol(`x${this.number++}`, this.latex);
        this.lines.push([left, this.printer.show(part)]);
        this.names.set(part, left);
      }
    }
    point() {
      const { graph, printer, latex } = this;
      const loss = latex ? "\\nabla L\\left({}\\right)" : "∇L({})";
      if (graph.first)
        this.lines.push([printer.atParameter(), format(loss, [printer.dated(graph.parameter, true)], {})]);
      if (!graph.implicit) this.nameParts(graph.evaluateAt);
      const at = graph.implicit ? printer.dated(graph.parameter, false) : printer.show(graph.evaluateAt);
      this.lines.push([symbol(graph.gradient, latex), format(loss, [at], {})]);
    }
    gradients() {
      let stars = "";
      for (const node of this.graph.gradients.keys()) {
        this.nameParts(node);
        stars += "*";
        const left = symbol(this.graph.gradient, this.latex) + (this.latex ? `^{${stars}}` : stars);
        this.lines.push([left, this.printer.show(node)]);
        this.names.set(node, left);
      }
    }
    output(name, node) {
      if (unsaid(this.graph, name, node)) return;
      this.nameParts(node);
      const left = this.printer.dated(name, false);
      this.lines.push([left, this.printer.inner(node, ALONE)]);
      if (node.kind !== "leaf") this.names.set(node, left);
    }
    gauge(name, node) {
      if (language.ofEveryRule(name)) return;
      this.nameParts(node);
      const plain = `\\mathrm{${name.replaceAll("_", "\\_").replaceAll(" ", "\\ ")}}`;
      this.lines.push([this.latex ? plain : name, this.printer.show(node)]);
    }
    all() {
      const { graph } = this;
      if (graph.evaluateAt !== null) this.point();
      this.gradients();
      graph.slots.forEach((slot, i) => this.output(slot.name, graph.newSlots[i]));
      this.output(graph.parameter, graph.newParameter);
      for (const [name, node] of graph.gauges) this.gauge(name, node);
      return this.lines;
    }
  }

  /** Print a rule as text, one equation a line. */
  language.formula = (graph) =>
    new Lines(graph, false, false)
      .all()
      .map(([left, right]) => `${left} = ${right}`)
      .join("\n");

  /** Print a rule as one `align*` environment of LaTeX. */
  language.latex = function (graph) {
    const lines = new Lines(graph, true, true).all().map(([left, right]) => `  ${left} &= ${right}`);
    return `\\begin{align*}\n${lines.join(" \\\\\n")}\n\\end{align*}`;
  };

  /** Return the scalar by which another node is multiplied in this one, if that is all; else null. */
  language.factor = function factor(node, of) {
    const scalar = (child) => rank.below(child.rank, rank.of("ELEMENT"));
    if (node === of) return constant(1);
    if (node.op === "neg") {
      const inner = factor(node.inputs[0], of);
      return inner && make("neg", [inner]);
    }
    if (node.op === "where" && scalar(node.inputs[0])) {
      const [yes, no] = node.inputs.slice(1).map((side) => factor(side, of));
      return yes && no && make("where", [node.inputs[0], yes, no]);
    }
    if (node.op !== "mul" && node.op !== "div") return null;
    const scalars = node.inputs.filter(scalar);
    if (scalars.length !== 1 || (node.op === "div" && scalars[0] !== node.inputs[1])) return null;
    const inner = factor(node.inputs[scalars[0] === node.inputs[0] ? 1 : 0], of);
    return inner && make(node.op, [inner, scalars[0]]);
  };

  language.symbolOf = symbol;
})((globalThis.steprule ??= {}));
