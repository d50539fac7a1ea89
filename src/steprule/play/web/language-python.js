// Expressions of Python, from the parse tree: each is evaluated as Python does, on symbols.
(function (steprule) {
  "use strict";

  const language = (steprule.language ??= Object.create(null));
  const { List, Tuple, Dict, PythonError, isSymbol, binary, unary, compare, truth, iterate } = language;

  /** Return a text's tree: {type, from, to, kids}, without comments. */
  language.parse = function (text) {
    const cursor = globalThis.editor.pythonParser.parse(text).cursor();
    // Python takes names in their normal form: 𝜃 and θ are one.
    const normal = (words, type) => (type.endsWith("Name") ? words.normalize("NFKC") : words);
    const doc = { text, slice: (node) => normal(text.slice(node.from, node.to), node.type) };
    return { doc, tree: grown(cursor) };
  };

  function grown(cursor) {
    const node = { type: cursor.type.isError ? "⚠" : cursor.name, from: cursor.from, to: cursor.to, kids: [] };
    if (cursor.firstChild()) {
      do {
        if (cursor.name !== "Comment") node.kids.push(grown(cursor));
      } while (cursor.nextSibling());
      cursor.parent();
    }
    return node;
  }

  /** Take the brackets off an expression. */
  function bare(node) {
    return node.type === "ParenthesizedExpression" ? bare(node.kids[1]) : node;
  }

  /** Where a node stands, as Python tells it: its words on its first line. */
  function place(node, frame) {
    const text = frame.doc.text;
    const end = text.indexOf("\n", node.from);
    const one = end < 0 || end >= node.to;
    return { doc: frame.doc, from: node.from, to: one ? node.to : end, node: one ? node : null };
  }

  function at(node, frame) {
    language.at = place(node, frame);
  }

  function isComparison(node) {
    return node.type === "BinaryExpression" && ["CompareOp", "in", "is", "not"].includes(node.kids[1].type);
  }

  /** Take a chain of comparisons apart: its operands and the signs between them. */
  language.comparisons = function (node, doc) {
    const left = node.kids[0];
    const right = node.kids[node.kids.length - 1];
    const parts = isComparison(left) ? language.comparisons(left, doc) : { operands: [left], operators: [] };
    const between = node.kids.slice(1, -1);
    const sign = between.map((kid) => (kid.type === "CompareOp" && doc ? doc.slice(kid) : kid.type)).join(" ");
    return { operands: [...parts.operands, right], operators: [...parts.operators, sign] };
  };

  function comparison(node, frame) {
    const { operands, operators } = language.comparisons(node, frame.doc);
    let left = evaluate(operands[0], frame);
    let value = true;
    for (const [i, sign] of operators.entries()) {
      const right = evaluate(operands[i + 1], frame);
      at(node, frame);
      value = compare(sign, left, right);
      if (i + 1 < operators.length && !truth(value)) return value;
      left = right;
    }
    return value;
  }

  function text(node, frame) {
    const raw = frame.doc.slice(node);
    const [, prefix, quote] = /^([a-zA-Z]*)("""|'''|"|')/.exec(raw);
    const inside = raw.slice(prefix.length + quote.length, raw.length - quote.length);
    if (/r/i.test(prefix)) return inside;
    const plain = new Map([
      ["n", "\n"],
      ["t", "\t"],
      ["r", "\r"],
      ["\n", ""],
    ]);
    return inside.replace(/\\([\s\S])/g, (_, letter) => plain.get(letter) ?? letter);
  }

  function numeral(node, frame) {
    const raw = frame.doc.slice(node).replaceAll("_", "").toLowerCase();
    if (raw.endsWith("j")) throw new PythonError("ValueError", "a complex number is no number of a formula");
    return /^\d+$|^0[xob]/.test(raw) ? BigInt(raw) : Number(raw);
  }

  function items(node, frame) {
    return language.listed(
      node.kids.filter((kid) => !"()[]{}".includes(kid.type)),
      frame,
    );
  }

  /** Evaluate expressions between commas, of which some may have a star. */
  language.listed = function (kids, frame) {
    const values = [];
    for (let i = 0; i < kids.length; i++) {
      if (kids[i].type === ",") continue;
      if (kids[i].type === "*") {
        const value = evaluate(kids[++i], frame);
        at(kids[i], frame);
        values.push(...iterate(value));
      } else values.push(evaluate(kids[i], frame));
    }
    return values;
  };

  /** Evaluate what may be a tuple without brackets. */
  language.valueOf = function (kids, frame) {
    const bared = kids.length === 1 && kids[0].type !== "*";
    return bared ? evaluate(kids[0], frame) : new Tuple(language.listed(kids, frame));
  };

  function dictionary(node, frame) {
    const kids = node.kids.filter((kid) => !["{", "}", ",", ":"].includes(kid.type));
    const made = new Map();
    for (let i = 0; i < kids.length; i += 2) {
      const key = evaluate(kids[i], frame);
      const value = evaluate(kids[i + 1], frame);
      at(node, frame);
      if (isSymbol(key)) throw new language.Refusal(language.text.told("hashed", {}));
      made.set(key, value);
    }
    return new Dict(made);
  }

  function logical(node, frame, whole = node) {
    const [left, sign, right] = node.kids;
    const alike = left.type === "BinaryExpression" && left.kids[1].type === sign.type;
    const value = alike ? logical(left, frame, whole) : evaluate(left, frame);
    at(whole, frame);
    return truth(value) === (sign.type === "and") ? evaluate(right, frame) : value;
  }

  function binaryExpression(node, frame) {
    if (isComparison(node)) return comparison(node, frame);
    const [left, sign, right] = node.kids;
    if (sign.type === "and" || sign.type === "or") return logical(node, frame);
    const a = evaluate(left, frame);
    const b = evaluate(right, frame);
    at(node, frame);
    return binary(frame.doc.slice(sign), a, b);
  }

  function unaryExpression(node, frame) {
    const [sign, operand] = node.kids;
    const value = evaluate(operand, frame);
    at(node, frame);
    return sign.type === "not" ? !truth(value) : unary(frame.doc.slice(sign), value);
  }

  function conditional(node, frame) {
    const [yes, , condition, , no] = node.kids;
    return evaluate(language.holds(condition, frame, node) ? yes : no, frame);
  }

  /** Whether a condition holds: Python decides where the whole expression or statement stands. */
  language.holds = function (condition, frame, whole) {
    const own = bare(condition);
    if (own.type === "UnaryExpression" && own.kids[0].type === "not") return !language.holds(own.kids[1], frame, whole);
    if (own.type === "BinaryExpression" && ["and", "or"].includes(own.kids[1].type)) {
      const left = language.holds(own.kids[0], frame, whole);
      return left === (own.kids[1].type === "and") ? language.holds(own.kids[2], frame, whole) : left;
    }
    const value = evaluate(own, frame);
    at(isComparison(own) ? own : whole, frame);
    return truth(value);
  };

  function member(node, frame) {
    const owner = evaluate(node.kids[0], frame);
    if (node.kids[1].type === "[") {
      const indices = node.kids.slice(2, -1);
      const index = indices.some((kid) => kid.type === ":") ? null : language.valueOf(indices, frame);
      at(node, frame);
      return language.item(owner, index);
    }
    const property = node.kids[node.kids.length - 1];
    at(node, frame);
    return language.attribute(owner, frame.doc.slice(property));
  }

  function call(node, frame) {
    return language.called(node, evaluate(node.kids[0], frame), frame);
  }

  /** Call a value with the arguments of a call. */
  language.called = function (node, own, frame) {
    const list = node.kids[1];
    const given = [];
    const named = new Map();
    const kids = list.kids.filter((kid) => !["(", ")", ","].includes(kid.type));
    if (list.kids.some((kid) => kid.type === "for")) given.push(comprehended(list, frame));
    else for (let i = 0; i < kids.length; i++) i = argument(kids, i, frame, given, named);
    at(node, frame);
    return language.invoke(own, given, named);
  };

  function argument(kids, i, frame, given, named) {
    if (kids[i].type === "*") given.push(...iterate(evaluate(kids[i + 1], frame)));
    else if (kids[i].type === "**") for (const [k, v] of evaluate(kids[i + 1], frame).items) named.set(k, v);
    else if (kids[i + 1]?.type === "AssignOp") {
      named.set(frame.doc.slice(kids[i]), evaluate(kids[i + 2], frame));
      return i + 2;
    } else {
      given.push(evaluate(kids[i], frame));
      return i;
    }
    return i + 1;
  }

  function comprehended(node, frame) {
    const kids = node.kids.filter((kid) => !"()[]{}".includes(kid.type));
    const inner = language.inside(frame);
    const found = [];
    const run = (i) => {
      if (i >= kids.length) return void found.push(evaluate(kids[0], inner));
      if (kids[i].type === "if") return void (language.holds(kids[i + 1], inner, node) && run(i + 2));
      const upto = kids.findIndex((kid, place) => place > i && kid.type === "in");
      for (const value of iterate(evaluate(kids[upto + 1], inner))) {
        language.assign(kids.slice(i + 1, upto), value, inner);
        run(upto + 2);
      }
    };
    run(1);
    return new List(found);
  }

  function name(node, frame) {
    at(node, frame);
    return language.lookUp(frame.doc.slice(node), frame);
  }

  const EXPRESSIONS = new Map(
    Object.entries({
      VariableName: name,
      Number: numeral,
      String: text,
      ContinuedString: (node, frame) => node.kids.map((kid) => text(kid, frame)).join(""),
      Boolean: (node, frame) => frame.doc.slice(node) === "True",
      None: () => null,
      ParenthesizedExpression: (node, frame) => evaluate(bare(node), frame),
      TupleExpression: (node, frame) => new Tuple(items(node, frame)),
      ArrayExpression: (node, frame) => new List(items(node, frame)),
      SetExpression: (node, frame) => hashable(new List(items(node, frame)), node, frame),
      DictionaryExpression: dictionary,
      BinaryExpression: binaryExpression,
      UnaryExpression: unaryExpression,
      ConditionalExpression: conditional,
      LambdaExpression: (node, frame) => language.lambda(node, frame),
      MemberExpression: member,
      CallExpression: call,
      ArrayComprehensionExpression: comprehended,
      ComprehensionExpression: comprehended,
    }),
  );

  function hashable(list, node, frame) {
    at(node, frame);
    if (list.items.some(isSymbol)) throw new language.Refusal(language.text.told("hashed", {}));
    return list;
  }

  /** Evaluate an expression. */
  function evaluate(node, frame) {
    language.spend(node, frame);
    const rule = EXPRESSIONS.get(node.type);
    if (rule) return rule(node, frame);
    at(node, frame);
    throw language.unread(node);
  }

  Object.assign(language, { evaluate, bare, place });
})((globalThis.steprule ??= {}));
