// Shows a document for reading, with passages marked in it.
//
// The text is laid out once, in blocks of whole lines. Marking a passage rebuilds one or two blocks, however long the
// document is. Positions of answers count Unicode code points and the browser counts UTF-16 units, so each block knows
// its beginning in both. Text only becomes text nodes.
"use strict";

class Reader {
  static BLOCK = 2000;

  constructor(element) {
    this.element = element;
    this.blocks = [];
    this.marked = [];
  }

  show(text) {
    this.text = text;
    this.blocks = [];
    this.marked = [];
    const fragment = document.createDocumentFragment();
    let begin = 0;
    let points = 0;
    while (begin < text.length) {
      let end = begin + Reader.BLOCK >= text.length ? text.length : text.indexOf("\n", begin + Reader.BLOCK) + 1;
      if (end === 0) end = text.length;
      const element = document.createElement("div");
      const part = text.slice(begin, end);
      element.textContent = part;
      fragment.append(element);
      this.blocks.push({ element, part, begin, points });
      points += codePoints(part);
      begin = end;
    }
    this.element.replaceChildren(fragment);
    this.element.scrollTop = 0;
  }

  // Returns a passage's sentence in three parts, of which the middle one is the answer.
  sentence(passage) {
    const [from, start, end, to] = [passage.sentence_start, passage.start, passage.end, passage.sentence_end].map(
      (point) => this.unitOf(point),
    );
    return [this.text.slice(from, start), this.text.slice(start, end), this.text.slice(end, to)];
  }

  // Marks passages, which do not overlap: code points [start, end) of each. The number of a mark is its place in the list.
  mark(passages) {
    for (const block of this.marked) block.element.textContent = block.part;
    this.marked = [];
    const parts = new Map(); // the pieces of passages in each block
    passages.forEach((passage, number) => {
      const from = this.unitOf(passage.start);
      const to = this.unitOf(passage.end);
      for (let i = this.blockWith("begin", from); i < this.blocks.length && this.blocks[i].begin < to; i++) {
        const block = this.blocks[i];
        const head = Math.max(0, from - block.begin);
        const tail = Math.min(block.part.length, to - block.begin);
        if (!parts.has(block)) parts.set(block, []);
        parts.get(block).push({ head, tail, number, isFirst: block.begin <= from });
      }
    });
    for (const [block, pieces] of parts) {
      const nodes = [];
      let done = 0;
      for (const { head, tail, number, isFirst } of pieces.sort((one, other) => one.head - other.head)) {
        const mark = document.createElement("mark");
        mark.textContent = block.part.slice(head, tail);
        mark.dataset.passage = number;
        if (isFirst && passages.length > 1) mark.dataset.number = number + 1;
        nodes.push(block.part.slice(done, head), mark);
        done = tail;
      }
      block.element.replaceChildren(...nodes, block.part.slice(done));
      this.marked.push(block);
    }
  }

  // Shows one of the marked passages as the current one, and scrolls to it.
  goTo(number) {
    let first = null;
    for (const mark of this.element.querySelectorAll("mark")) {
      const isCurrent = Number(mark.dataset.passage) === number;
      if (isCurrent) mark.setAttribute("aria-current", "true");
      else mark.removeAttribute("aria-current");
      if (isCurrent) first ??= mark;
    }
    if (first) this.scrollTo(first);
  }

  scrollTo(mark) {
    const frame = this.element.getBoundingClientRect();
    const place = mark.getBoundingClientRect();
    const away = place.top - frame.top - (frame.height - place.height) / 3;
    const jump = matchMedia("(prefers-reduced-motion: reduce)").matches || Math.abs(away) > 4 * frame.height;
    this.element.scrollBy({ top: away, behavior: jump ? "instant" : "smooth" });
  }

  unitOf(point) {
    const block = this.blocks[this.blockWith("points", point)];
    if (!block) return 0;
    let unit = 0;
    for (let left = point - block.points; left > 0 && unit < block.part.length; left--) {
      unit += block.part.codePointAt(unit) > 0xffff ? 2 : 1;
    }
    return block.begin + unit;
  }

  // Returns the index of the last block whose `key` is at most the value.
  blockWith(key, value) {
    let low = 0;
    let high = this.blocks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.blocks[middle][key] <= value) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

function codePoints(text) {
  let count = text.length;
  for (let i = 0; i < text.length - 1; i++) {
    const unit = text.charCodeAt(i);
    if (unit >= 0xd800 && unit < 0xdc00) {
      const next = text.charCodeAt(i + 1);
      if (next >= 0xdc00 && next < 0xe000) {
        count--;
        i++;
      }
    }
  }
  return count;
}
