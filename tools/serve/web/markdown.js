// Markdown as it comes. Blocks that are finished stay as they are; the last one is parsed again and only what
// differs is changed. Nothing but markdown-it's output, which holds no HTML of the text, becomes elements here.

import "./markdown-it.js";

const md = globalThis.markdownit({ html: false, linkify: true, breaks: true });
md.disable("image");
md.linkify.set({ fuzzyLink: false, fuzzyEmail: false, fuzzyIP: false });
md.validateLink = (url) => /^(https?:\/\/|mailto:)/i.test(url.trim());
const escape = md.utils.escapeHtml;
const rules = md.renderer.rules;
rules.link_open = (tokens, at, options, env, self) => {
  tokens[at].attrSet("target", "_blank");
  tokens[at].attrSet("rel", "noopener noreferrer");
  return self.renderToken(tokens, at, options);
};
// Answers are below the page's own heading.
const deeper = (tokens, at, options, env, self) => {
  tokens[at].tag = `h${Math.min(6, Number(tokens[at].tag[1]) + 1)}`;
  return self.renderToken(tokens, at, options);
};
rules.heading_open = rules.heading_close = deeper;
const code = (text, language) =>
  `<figure class="codeblock"><figcaption><span>${escape(language)}</span><button type="button" class="tool" data-copy>Copy</button></figcaption>` +
  `<pre tabindex="0"><code>${lines(text)}</code></pre></figure>\n`;
/** Lines of code; many of them in parts, of which only the last is laid out again when it grows. */
function lines(text) {
  const parts = text.match(/(?:[^\n]*\n){1,50}|[^\n]+$/g) ?? [];
  if (parts.length <= 2) return escape(text);
  return parts.map((part) => `<span class="part">${escape(part)}</span>`).join("");
}
rules.fence = (tokens, at) => code(tokens[at].content, tokens[at].info.trim().split(/\s+/)[0].slice(0, 40));
rules.code_block = (tokens, at) => code(tokens[at].content, "");
rules.table_open = () => '<div class="table" tabindex="0" role="group" aria-label="Table"><table>';
rules.table_close = () => "</table></div>";
// Attributes `style` are not for this page's policy.
rules.th_open = rules.td_open = (tokens, at, options, env, self) => {
  const aligned = /text-align:\s*(left|center|right)/.exec(tokens[at].attrGet("style") ?? "");
  tokens[at].attrs = aligned ? [["class", aligned[1]]] : null;
  return self.renderToken(tokens, at, options);
};

/** The elements of what markdown-it has written. */
function elements(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

/** Where line `n` begins; lines end as markdown-it ends them. */
function offset(text, n) {
  const ends = /\r\n?|\n/g;
  for (; n > 0; n--) ends.exec(text);
  return ends.lastIndex;
}

/** Whether two nodes differ in their children alone. */
function sameTag(a, b) {
  return a.nodeName === b.nodeName && a.cloneNode().isEqualNode(b.cloneNode());
}

/** Makes the children of `old` those of `fresh`; what is equal stays, with its selection. */
function morph(old, fresh) {
  let a = old.firstChild;
  let b = fresh.firstChild;
  while (a && b) {
    const [nextA, nextB] = [a.nextSibling, b.nextSibling];
    if (!a.isEqualNode(b)) {
      if (a.nodeType === Node.TEXT_NODE && b.nodeType === Node.TEXT_NODE) {
        if (b.data.startsWith(a.data)) a.appendData(b.data.slice(a.length));
        else a.data = b.data;
      } else if (sameTag(a, b)) morph(a, b);
      else a.replaceWith(b);
    }
    a = nextA;
    b = nextB;
  }
  for (; a; ) {
    const next = a.nextSibling;
    a.remove();
    a = next;
  }
  for (; b; ) {
    const next = b.nextSibling;
    old.append(b);
    b = next;
  }
}

/** Blocks whose own blocks are looked at one by one; each has one element, and a table's is in a frame. */
const CONTAINERS = new Set(["bullet_list_open", "ordered_list_open", "blockquote_open", "table_open", "tbody_open"]);
/** Rows of a table that are read again at most. */
const ROWS = 32;
const inside = (element) => (element.className === "table" ? element.firstElementChild : element);

/** The blocks of a list of tokens: where each begins, and where it has ended. */
function blocksOf(tokens, from, to) {
  const blocks = [];
  for (let at = from; at < to; ) {
    const start = at;
    for (let depth = 0; at < to; ) {
      depth += tokens[at++].nesting;
      if (depth === 0) break;
    }
    blocks.push([start, at]);
  }
  return blocks;
}

/** A text that grows, as Markdown inside an element. */
export class Markdown {
  constructor(root) {
    this.root = root;
    this.tail = document.createElement("div");
    this.tail.className = "tail";
    this.#begin();
  }

  #begin() {
    this.shown = "";
    this.done = 0;
    this.env = { references: {} };
    /** The first lines of a long table, of which rows are finished. */
    this.head = "";
    /** What the blocks in an element were made of, and how many before them are finished. */
    this.made = new WeakMap();
    this.kept = new WeakMap();
    this.tail.replaceChildren();
    this.root.replaceChildren(this.tail);
  }

  /** Shows a text; `ended`: it will not grow. */
  show(text, ended) {
    if (text === this.shown && this.ended === ended) return;
    if (!text.startsWith(this.shown)) this.#begin();
    const links = this.#grow(text, ended);
    // A link's address may stand below the link.
    if (ended && links && this.done) {
      this.#begin();
      this.#grow(text, ended);
    }
    this.shown = text;
    this.ended = ended;
  }

  /** Draws what is behind the finished blocks; whether there are addresses of links. */
  #grow(text, ended) {
    const rest = this.head + text.slice(this.done);
    const env = { references: { ...this.env.references } };
    const tokens = md.parse(rest, env);
    const blocks = blocksOf(tokens, 0, tokens.length);
    this.#sync(this.tail, tokens, blocks);
    const last = blocks.length - 1;
    if (last > 0 && !ended) {
      const at = offset(rest, tokens[blocks[last][0]].map[0]);
      // The first line of a block says what it is; once that is whole, the blocks before are finished.
      if (rest.indexOf("\n", at) >= 0) {
        md.parse(rest.slice(0, at), this.env);
        this.done += at - this.head.length;
        this.head = "";
        this.tail.before(...[...this.tail.children].slice(0, last));
        this.made.get(this.tail).splice(0, last);
      }
    } else if (last === 0 && !ended) this.#keepRows(rest, tokens);
    return Object.keys(env.references).length > 0;
  }

  /** The rows of a long table but the last are finished: a row is a line, whatever the others say. */
  #keepRows(rest, tokens) {
    if (tokens[0].type !== "table_open") return;
    const body = tokens.findIndex((t) => t.type === "tbody_open");
    const rows = body < 0 ? [] : blocksOf(tokens, body + 1, tokens.length - 2);
    if (rows.length < ROWS) return;
    const line = tokens[0].map[0];
    const at = offset(rest, tokens[rows.at(-1)[0]].map[0]);
    this.done += at - this.head.length;
    this.head = rest.slice(offset(rest, line), offset(rest, line + 2));
    const element = this.tail.querySelector("tbody");
    this.kept.set(element, (this.kept.get(element) ?? 0) + rows.length - 1);
    this.made.get(element).splice(0, rows.length - 1);
  }

  /** Makes the children of `parent` the elements of these blocks; what was made of the same stays. */
  #sync(parent, tokens, blocks) {
    const made = this.made.get(parent) ?? [];
    this.made.set(parent, made);
    const kept = this.kept.get(parent) ?? 0;
    let node = parent.children[kept] ?? null;
    blocks.forEach(([from, to], n) => {
      const next = node?.nextElementSibling ?? null;
      const holds = CONTAINERS.has(tokens[from].type);
      const html = md.renderer.render(tokens.slice(from, holds ? from + 1 : to), md.options, {});
      if (node && holds && made[n] === html) {
        this.#sync(inside(node), tokens, blocksOf(tokens, from + 1, to - 1));
      } else if (made[n] !== html || !node) {
        const fresh = elements(html).firstElementChild;
        if (holds) this.#sync(inside(fresh), tokens, blocksOf(tokens, from + 1, to - 1));
        if (!node) parent.append(fresh);
        else if (!holds && sameTag(node, fresh)) morph(node, fresh);
        else node.replaceWith(fresh);
        made[n] = html;
      }
      node = next;
    });
    made.length = blocks.length;
    while (parent.children.length > kept + blocks.length) parent.lastElementChild.remove();
  }
}
