// What leaves the page: a link, the rule as a Python file that runs with the library, the rule as a file of its own.
(function (steprule) {
  "use strict";

  /** Save a text under a name. */
  steprule.save = function (name, text) {
    const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    const link = steprule.element("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };

  // The files that Python wrote when the page was made, by the names of their rules; unpacked when one is asked for.
  async function files() {
    const packed = Uint8Array.from(atob(JSON.parse(document.getElementById("files").textContent)), (letter) => letter.charCodeAt(0));
    return JSON.parse(await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).text());
  }

  // The name of the rule that an entry is, as it stands in the library; none if anything of it was changed.
  function unedited(entry, state) {
    if (entry.clip !== "none" || Object.keys(entry.choices).length) return "";
    if (entry.rule !== "mine") return entry.rule;
    return steprule.rules.find((one) => one.source === state.text)?.key ?? "";
  }

  /**
   * Return an entry as one file that needs no library: of torch for a rule that has a name, else of JavaScript.
   * @param {object} entry
   * @param {object} one its trajectory
   * @param {object} state
   */
  steprule.single = async function (entry, one, state) {
    const key = unedited(entry, state), made = key ? (await files())[key] : undefined, name = one.rule.name.replace(/\W+/g, "_");
    return made ? { name: `${name}.py`, text: made } : { name: `${name}.js`, text: steprule.javascript(one.rule) };
  };

  // The names of the library that a program uses and does not make or import, in order. What follows a dot is no name.
  function imported(text) {
    const used = new Set(), made = new Set();
    editor.pythonParser.parse(text).iterate({
      enter({ name, node }) {
        if (name !== "VariableName" || node.prevSibling?.name === ".") return;
        const parent = node.parent.name, assigned = parent === "AssignStatement" && node.nextSibling?.name === "AssignOp";
        (parent === "FunctionDefinition" || parent === "ImportStatement" || assigned ? made : used).add(text.slice(node.from, node.to));
      },
    });
    return steprule.names.filter((name) => used.has(name) && !made.has(name)).sort();
  }

  // The imports that stand at the top of every downloaded file.
  const GIVEN = /^import (?:math|torch|steprule as sr)[ \t]*\n/gm;

  /**
   * Return a Python file with a program and a loop that trains by it, on the surface of the page. A script may import it: the loop
   * runs only when the file itself does.
   * @param {string} text the program
   * @param {object} one its trajectory
   * @param {object} state
   */
  steprule.python = function (text, one, state) {
    const surface = steprule.surface(state), names = imported(text), found = steprule.program(text), named = found.name ?? "program";
    const choices = Object.entries(one.entry.choices ?? {}).map(([name, value]) => `${name}=${typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value)}`).join(", ");
    const called = choices ? `${named}(${choices})` : named;
    const numbers = Object.entries(one.hypers).map(([name, value]) => `, ${name}=${value}`).join("");
    const rules = (found.name ? text : `${text.slice(0, found.from).trim()}\n\n\nprogram = ${found.expression}`).replace(GIVEN, "").trim();
    const file = one.rule.name.replace(/\W+/g, "_");
    return `"""${one.rule.name}, from the playground of steprule ${steprule.facts.version}.

Try it on the page's surface:

    python3 ${file}.py

Or train your model with it, in a script beside this file:

    import steprule as sr
    from ${file} import ${named}

    optimizer = sr.Optimizer(model.parameters(), ${called}${numbers})
"""

import math

import torch

import steprule as sr
${names.length ? `from steprule import ${names.join(", ")}\n` : ""}${/^(?:from|import)\s/.test(rules) ? "" : "\n\n"}${rules}


def loss_at(x, y):
    ${surface.python.join("\n    ")}


def main():
    ${state.noise ? "# On the page gradients had noise besides; here they are exact.\n    " : ""}theta = torch.tensor([${state.start.join(", ")}], dtype=torch.float64, requires_grad=True)
    optimizer = sr.Optimizer([theta], ${called}${numbers})

    def closure():
        optimizer.zero_grad()
        loss = loss_at(*theta)
        loss.backward()
        return loss

    for step in range(1, ${state.steps} + 1):
        optimizer.step(closure)
        if step % ${Math.max(1, Math.round(state.steps / 10))} == 0:
            x, y = theta.tolist()
            print(f"iteration {step}: x = {x:.6g}, y = {y:.6g}, loss {loss_at(x, y):.6g}")
    return theta.tolist()


if __name__ == "__main__":
    main()
`;
  };
})(globalThis.steprule ??= {});
