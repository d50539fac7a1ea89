// Text as Python spells it: numbers, representations, templates of messages. All words come from the facts.
(function (steprule) {
  "use strict";

  const language = (steprule.language ??= Object.create(null));

  /** The named tables of the facts as maps, made once for each set of facts. */
  language.tables = function () {
    if (language.known?.facts !== steprule.facts) {
      const facts = steprule.facts;
      const maps = Object.create(null);
      for (const [name, table] of Object.entries(facts)) {
        if (table && typeof table === "object" && !Array.isArray(table)) maps[name] = new Map(Object.entries(table));
      }
      maps.functions = new Set(facts.functions);
      language.known = { facts, maps };
    }
    return language.known.maps;
  };

  function general(value, digits) {
    if (value === 0) return Object.is(value, -0) ? "-0" : "0";
    if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
    const [mantissa, power] = value.toExponential(digits - 1).split("e");
    const exponent = Number(power);
    if (exponent < -4 || exponent >= digits) return trimmed(mantissa) + "e" + signed(exponent);
    return trimmed(value.toFixed(Math.max(digits - 1 - exponent, 0)));
  }

  function trimmed(text) {
    return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
  }

  function signed(exponent) {
    return (exponent < 0 ? "-" : "+") + String(Math.abs(exponent)).padStart(2, "0");
  }

  /** Spell a float as Python's repr does. */
  function float(value) {
    if (!Number.isFinite(value)) return general(value, 17);
    const [mantissa, power] = value.toExponential().split("e");
    const exponent = Number(power);
    if (exponent < -4 || exponent >= 16) return mantissa + "e" + signed(exponent);
    const digits = Math.max(mantissa.replace(/[-.]/g, "").length - 1 - exponent, 1);
    const text = value.toFixed(Math.min(digits, 100));
    return Object.is(value, -0) ? "-0.0" : text;
  }

  function quoted(text) {
    const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
    const escaped = [...text].map((letter) => {
      if (letter === quote || letter === "\\") return "\\" + letter;
      if (letter === "\n") return "\\n";
      if (letter === "\t") return "\\t";
      return letter === "\r" ? "\\r" : letter;
    });
    return quote + escaped.join("") + quote;
  }

  /** Spell a value as Python's repr does; what a page cannot have is spelled by its class. */
  function repr(value) {
    if (value === null) return "None";
    if (value === true || value === false) return value ? "True" : "False";
    if (typeof value === "bigint") return String(value);
    if (typeof value === "number") return float(value);
    if (typeof value === "string") return quoted(value);
    if (typeof value.repr === "function") return value.repr();
    return `<${value.kind ?? "object"}>`;
  }

  /** Shorten a representation as Python's reprlib does. */
  function short(value) {
    if (value?.items instanceof Array) return shortSequence(value);
    if (typeof value === "string") return shortText(value);
    const text = repr(value);
    const most = typeof value === "bigint" ? 40 : 30;
    return typeof value === "number" ? text : cut(text, most);
  }

  function cut(text, most) {
    const first = Math.floor((most - 3) / 2);
    return text.length <= most ? text : text.slice(0, first) + "..." + text.slice(text.length - (most - 3 - first));
  }

  function shortText(value) {
    const text = quoted(value.slice(0, 30));
    if (text.length <= 30) return text;
    const whole = quoted(value.slice(0, 13) + value.slice(-14));
    return whole.slice(0, 13) + "..." + whole.slice(-14);
  }

  function shortSequence({ kind, items }) {
    const inside = [...items.slice(0, 6).map(short), ...(items.length > 6 ? ["..."] : [])].join(", ");
    return kind === "tuple" ? `(${inside}${items.length === 1 ? "," : ""})` : `[${inside}]`;
  }

  /** Fill in a template in the form of Python's str.format. */
  function format(template, values, named) {
    let next = 0;
    return template.replace(/\{\{|\}\}|\{([^{}!]*)(!r)?\}/g, (all, name, own) => {
      if (name === undefined) return all[0];
      const value = name === "" ? values[next++] : /^\d+$/.test(name) ? values[Number(name)] : named[name];
      if (value === undefined) throw new Error(`no value for ${all} in ${template}`);
      return own ? repr(value) : String(value);
    });
  }

  /** Return what is wrong and what to do, by the name of the case. */
  function told(name, values) {
    const [what, fix] = language.tables().messages.get(name);
    return { what: format(what, [], values), fix: format(fix, [], values) };
  }

  /** Return a part of a message by its name. */
  function phrase(name, values) {
    return format(language.tables().phrases.get(name), [], values ?? {});
  }

  /** Return the length of the longest common block, and where it is in both. */
  function longest(a, b, [aLow, aHigh, bLow, bHigh]) {
    let best = [aLow, bLow, 0];
    for (let i = aLow; i < aHigh; i++) {
      for (let j = bLow; j < bHigh; j++) {
        let size = 0;
        while (i + size < aHigh && j + size < bHigh && a[i + size] === b[j + size]) size++;
        if (size > best[2]) best = [i, j, size];
      }
    }
    return best;
  }

  function matched(a, b, range) {
    const [i, j, size] = longest(a, b, range);
    if (!size) return 0;
    const [aLow, aHigh, bLow, bHigh] = range;
    return size + matched(a, b, [aLow, i, bLow, j]) + matched(a, b, [i + size, aHigh, j + size, bHigh]);
  }

  /** Return the most alike of some words, if it is alike enough: as Python's difflib finds it. */
  function close(word, words) {
    let best = null;
    for (const other of words) {
      const ratio = (2 * matched(other, word, [0, other.length, 0, word.length])) / (other.length + word.length);
      if (ratio >= 0.6 && (!best || ratio > best[0] || (ratio === best[0] && other > best[1]))) best = [ratio, other];
    }
    return best && best[1];
  }

  language.text = { general, float, repr, short, format, told, phrase, close };
})((globalThis.steprule ??= {}));
