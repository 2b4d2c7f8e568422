// Explains a request that a vendor's API refused: what was checked, and where the signed texts differ.

import { post, sentence } from "./api.js";
import { button, copyText, h, setText, whileDisabled } from "./dom.js";
import { visibleLines, words } from "./format.js";

/** Most lines of a text that are compared: canonical requests have some ten. */
const MAX_LINES = 400;

const EXAMPLE = "POST /?Action=StopWebcast&Version=2023-11-01 HTTP/1.1\nHost: …\nX-Date: …\nAuthorization: …\n\n{…}";

/** Shows the form and, later, the explanation. */
export function mountExplain(outlet) {
  const problem = h("p", { class: "error", role: "alert", id: "explain-problem" });
  const text = h("textarea", { id: "explain-request", class: "tall", spellcheck: "false", placeholder: EXAMPLE, "aria-describedby": "explain-help explain-problem", on: { input: () => setText(problem, "") } });
  const submit = h("button", { type: "submit", class: "button primary" }, "Explain");
  const result = h("div", { class: "form", role: "region", "aria-label": "Explanation" });
  const form = h("form", { class: "form", on: { submit: explain } },
    h("div", { class: "field" }, h("label", { for: "explain-request" }, "Refused request"), text, problem,
      h("p", { class: "help", id: "explain-help" }, "As it was sent: request line, headers, an empty line, body. It is not made again, and only keys of your applications are looked at.")),
    h("div", { class: "actions" }, submit));

  async function explain(event) {
    event.preventDefault();
    if (!text.value.trim()) {
      setText(problem, "Paste a request.");
      return text.focus();
    }
    try {
      showExplanation(result, await whileDisabled(submit, () => post("/v1/explorer/explain", { request: text.value })));
    } catch (error) {
      setText(problem, error.message);
      result.replaceChildren();
    }
    return undefined;
  }

  result.append(h("p", { class: "hint" }, "Every step of the server’s check appears here, and the texts that it signs, to compare with yours."));
  outlet.append(h("div", { class: "explorer-layout" }, form, result));
  text.focus({ preventScroll: true });
}

function showExplanation(result, { verdict, message, server, checks }) {
  const accepted = verdict === "accepted";
  result.replaceChildren(
    h("div", { class: `verdict ${accepted ? "good" : "bad"}`, role: "status" }, h("b", null, accepted ? "The service accepts it" : `Refused: ${words(verdict)}`), h("p", null, visibleLines(sentence(message)))),
    h("ol", { class: "checks", "aria-label": "Checks" }, checks.map((check) => h("li", { class: check.ok ? "good" : "bad" },
      h("span", { class: "sign", "aria-hidden": "true" }, check.ok ? "✓" : "✗"), h("div", null, h("b", null, words(check.check)), h("span", { class: "hidden" }, check.ok ? " passes" : " fails"), h("p", null, visibleLines(sentence(check.message))))))),
    ...(server ? [comparison(server)] : [h("p", { class: "hint" }, "The request does not get so far that a signature is computed for it.")]));
}

/** What the server signs, and the difference to what the reader pastes. */
function comparison({ canonical_request: canonical, string_to_sign: toSign }) {
  const own = h("textarea", { id: "explain-own", spellcheck: "false", "aria-describedby": "explain-own-help", on: { input: update } });
  const shown = h("div", { class: "form" });
  const whole = (title, text) => h("div", { class: "code-tabs" },
    h("div", { class: "section-head" }, h("h3", null, title), button("Copy", () => copyText(text, title), { kind: "small", icon: "copy" })), h("pre", { class: "code", tabindex: "0", "aria-label": title }, text));

  function update() {
    const text = own.value.replace(/\r\n/g, "\n").replace(/\n+$/, "");
    if (!text.trim()) {
      shown.replaceChildren(whole("Canonical request", canonical), whole("String to sign", toSign));
      return;
    }
    // A string to sign begins with the name of its algorithm.
    const isToSign = /^(TC3-)?HMAC-SHA/i.test(text.trimStart());
    shown.replaceChildren(difference(text, isToSign ? toSign : canonical, isToSign ? "string to sign" : "canonical request"));
  }

  update();
  return h("section", { class: "form", "aria-label": "What the server signs" }, h("h2", null, "What the server signs"),
    h("div", { class: "field" }, h("label", { for: "explain-own" }, "Your text, to compare"), own,
      h("p", { class: "help", id: "explain-own-help" }, "The canonical request or the string to sign that your program logs. It stays in this page.")), shown);
}

/** Lines of both texts: equal ones once, others with − for yours and + for the server's. */
function difference(own, server, what) {
  const rows = compareLines(own.split("\n").slice(0, MAX_LINES), server.split("\n").slice(0, MAX_LINES));
  const first = rows.findIndex((row) => row.sign !== " ");
  const verdict = first < 0 ? `Your ${what} is the server’s: the secret or the signing key differs.` : `Your ${what} differs here:`;
  const names = { " ": "", "−": "yours: ", "+": "server’s: " };
  return h("div", { class: "code-tabs" }, h("p", { role: "status" }, h("b", null, verdict)),
    h("pre", { class: "code difference", tabindex: "0", "aria-label": "Difference" }, rows.map(({ sign, text, mark }) => h("span", { class: `line ${{ "−": "own", "+": "server" }[sign] || ""}` },
      h("span", { class: "hidden" }, names[sign]), h("span", { class: "sign", "aria-hidden": "true" }, sign), mark ? [text.slice(0, mark[0]), h("mark", null, text.slice(mark[0], mark[1]) || " "), text.slice(mark[1])] : text || " ", "\n"))));
}

/** Aligns lines by their longest common sequence. Of a changed line, `mark` is where it differs, from and to. */
export function compareLines(own, server) {
  const length = Array.from({ length: own.length + 1 }, () => new Uint16Array(server.length + 1));
  for (let i = own.length - 1; i >= 0; i -= 1) {
    for (let j = server.length - 1; j >= 0; j -= 1) {
      length[i][j] = own[i] === server[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const rows = [];
  for (let i = 0, j = 0; i < own.length || j < server.length;) {
    if (i < own.length && j < server.length && own[i] === server[j]) {
      rows.push({ sign: " ", text: own[i] });
      i += 1;
      j += 1;
    } else if (i < own.length && (j >= server.length || length[i + 1][j] >= length[i][j + 1])) {
      rows.push({ sign: "−", text: own[i] });
      i += 1;
    } else {
      rows.push({ sign: "+", text: server[j] });
      j += 1;
    }
  }
  rows.forEach((row, index) => {
    const next = rows[index + 1];
    if (row.sign !== "−" || !next || next.sign !== "+") return;
    let same = 0;
    while (same < row.text.length && row.text[same] === next.text[same]) same += 1;
    let end = 0;
    while (end < Math.min(row.text.length, next.text.length) - same && row.text.at(-1 - end) === next.text.at(-1 - end)) end += 1;
    row.mark = [same, row.text.length - end];
    next.mark = [same, next.text.length - end];
  });
  return rows;
}
