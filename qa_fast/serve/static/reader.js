// Shows a document for reading, with one span marked in it.
//
// The text is laid out once, in blocks of whole lines. Marking a span rebuilds one or two blocks, however long the
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

  // Returns the text of code points [start, end), and up to `around` units on either side.
  excerpt(start, end, around) {
    const from = this.unitOf(start);
    const to = this.unitOf(end);
    let left = Math.max(0, from - around);
    let right = Math.min(this.text.length, to + around);
    if (left > 0) left = wordEdge(this.text, left, from, 1);
    if (right < this.text.length) right = wordEdge(this.text, right, to, -1);
    return {
      before: (left > 0 ? "…" : "") + this.text.slice(left, from),
      answer: this.text.slice(from, to),
      after: this.text.slice(to, right) + (right < this.text.length ? "…" : ""),
    };
  }

  // Marks code points [start, end) and scrolls to them. Without arguments, removes the mark.
  mark(start, end) {
    for (const block of this.marked) block.element.textContent = block.part;
    this.marked = [];
    if (start === undefined || end <= start) return;
    const from = this.unitOf(start);
    const to = this.unitOf(end);
    let first = null;
    for (let i = this.blockWith("begin", from); i < this.blocks.length && this.blocks[i].begin < to; i++) {
      const block = this.blocks[i];
      const head = Math.max(0, from - block.begin);
      const tail = Math.min(block.part.length, to - block.begin);
      const mark = document.createElement("mark");
      mark.textContent = block.part.slice(head, tail);
      block.element.replaceChildren(block.part.slice(0, head), mark, block.part.slice(tail));
      this.marked.push(block);
      first ??= mark;
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

// Returns the first white space from `at` towards `limit`, so that no word is cut; `at` if there is none.
function wordEdge(text, at, limit, step) {
  for (let i = at; i !== limit; i += step) {
    if (/\s/.test(text[step > 0 ? i : i - 1])) return i;
  }
  const low = text.charCodeAt(at);
  return low >= 0xdc00 && low < 0xe000 ? at + step : at;
}
