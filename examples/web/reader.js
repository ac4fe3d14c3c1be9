// Answers questions about a document in the browser, with a folder that `qa-fast export --format web` wrote.
//
// transformers.js tokenizes and computes the logits. It does not tell where a token stands in the text. This module finds
// that out with one rule: if the tokens of a text's beginning are the first k tokens of the text, then these k tokens end
// where that beginning ends. Windows and the choice of the answer follow the same rules as in Python, with the options in
// the folder's qa_fast_answering.json.

import { AutoModel, AutoTokenizer, Tensor, env } from "@huggingface/transformers";

const CANDIDATES = 20;
// The scripts whose words are not widened, as in qa_fast/scripts.py: no spaces between words, or Korean particles.
const UNSPACED = "\\u0E00-\\u109F\\u1100-\\u11FF\\u1780-\\u17FF\\u1950-\\u19FF\\u1A20-\\u1AAF\\u2E80-\\uA4CF\\uA960-\\uA97F" +
  "\\uA980-\\uA9FF\\uAA60-\\uAADF\\uAC00-\\uD7FF\\uF900-\\uFAFF\\uFF65-\\uFFDC\\u{1AFF0}-\\u{1B2FF}\\u{20000}-\\u{3FFFF}";
const LETTER = `(?![${UNSPACED}])[\\p{L}\\p{M}\\p{N}\\u00AD\\u200C\\u200D]`;
const WORD_BEGIN = new RegExp(`(?:${LETTER})+$`, "u");
const WORD_END = new RegExp(`^(?:${LETTER})+`, "u");
const graphemes = new Intl.Segmenter(undefined, { granularity: "grapheme" });

export class Reader {
  /**
   * Open a folder.
   * @param {string} folder Its address on the page's own server, relative to the page.
   * @param {string} packages The address of node_modules/, which holds ONNX Runtime's WebAssembly.
   * @param {string} dtype "q8" for onnx/model_quantized.onnx, "fp32" for onnx/model.onnx.
   */
  static async open(folder, packages, dtype = "q8") {
    const address = new URL(folder.replace(/\/*$/, "/"), document.baseURI);
    env.allowRemoteModels = false;
    env.allowLocalModels = true;
    env.useBrowserCache = false; // it would keep an earlier export under the same address
    env.backends.onnx.wasm.wasmPaths = new URL("onnxruntime-web/dist/", new URL(packages, document.baseURI)).href;
    const name = address.pathname.slice(0, -1); // a path, which transformers.js never takes for a name on the Hub
    const [tokenizer, model, options] = await Promise.all([
      AutoTokenizer.from_pretrained(name),
      // Without a head's class: the graph has the head, and transformers.js has no such class for some families.
      AutoModel.from_pretrained(name, { dtype, device: "wasm" }),
      fetch(new URL("qa_fast_answering.json", address)).then((response) => response.json()),
    ]);
    return new Reader(tokenizer, model, options);
  }

  constructor(tokenizer, model, options) {
    this.tokenizer = tokenizer;
    this.model = model;
    this.options = options;
    this.template = this.#readTemplate();
  }

  /**
   * Answer a question.
   * @returns {Promise<{answer: string, start: number, end: number, score: number, margin: number, windows: number}>}
   *   The answer, its place in the document [start, end) in UTF-16 units, as `slice` takes them, and the sum of its two
   *   logits. Without an answer they are "", 0 and 0. The margin is the score of "no answer" minus that of the best span.
   */
  async answer(question, document) {
    const tokens = new Places(document, this.tokenizer);
    const [windows, room] = this.#windows(this.#ids(question.trimStart()), tokens.ids);
    let best = [];
    let none = Infinity;
    for (const { ids, types, first, context } of windows) {
      const { start_logits, end_logits } = await this.#logits(ids, types);
      none = Math.min(none, start_logits[0] + end_logits[0]); // at CLS
      const count = Math.min(room, tokens.ids.length - first);
      for (let start = 0; start < count; start++) {
        for (let end = start; end < Math.min(count, start + this.options.max_answer_len); end++) {
          const score = Math.fround(start_logits[context + start] + end_logits[context + end]);
          if (best.length < CANDIDATES || score > best.at(-1).score) {
            best.push({ score, first: first + start, last: first + end });
            best.sort((a, b) => b.score - a.score);
            best = best.slice(0, CANDIDATES);
          }
        }
      }
    }
    // A token without characters of its own, such as a space, is no answer.
    const spans = best.map((span) => ({ ...span, ...this.#bounds(document, tokens, span) }));
    const span = spans.find(({ start, end }) => start < end);
    const margin = span ? none - span.score : Infinity;
    const { handle_impossible_answer: mayBeNone, null_threshold: threshold } = this.options;
    if (!span || (mayBeNone && margin > threshold)) {
      return { answer: "", start: 0, end: 0, score: none, margin, windows: windows.length };
    }
    const { start, end, score } = span;
    return { answer: document.slice(start, end), start, end, score, margin, windows: windows.length };
  }

  #ids(text) {
    return idsOf(this.tokenizer, text);
  }

  // Find the special tokens around a question and a document by encoding one pair.
  #readTemplate() {
    const pair = this.tokenizer("a", { text_pair: "b", return_tensor: false, return_token_type_ids: true });
    const [ids, types] = [pair.input_ids, pair.token_type_ids ?? pair.input_ids.map(() => 0)];
    const [question, context] = [this.#ids("a"), this.#ids("b")];
    const find = (part, from) => ids.findIndex((_, at) => at >= from && part.every((id, k) => ids[at + k] === id));
    const begin = find(question, 0);
    const middle = begin + question.length;
    const second = find(context, middle);
    const suffix = second + context.length;
    if (begin < 0 || second < 0) throw new Error("the tokenizer must encode a pair as question, then document");
    const part = (from, to) => ({ ids: ids.slice(from, to), types: types.slice(from, to) });
    return {
      prefix: part(0, begin), middle: part(middle, second), suffix: part(suffix, ids.length),
      questionType: types[begin], contextType: types[second],
    };
  }

  // Cut a document into windows that overlap by doc_stride tokens.
  #windows(question, document) {
    const { prefix, middle, suffix, questionType, contextType } = this.template;
    const { max_seq_len: longest, doc_stride: overlap, max_question_len: longestQuestion } = this.options;
    const taken = longest - prefix.ids.length - middle.ids.length - suffix.ids.length;
    let asked = question.slice(0, longestQuestion);
    if (document.length > taken - asked.length && taken - asked.length <= overlap) {
      const half = Math.floor((taken - overlap) / 2); // as in qa_fast/answer/questions.py
      if (half < Math.max(1, Math.floor(longest / 8))) throw new Error("the question is too long for a window");
      asked = asked.slice(0, half);
    }
    const room = taken - asked.length;
    const windows = [];
    for (let first = 0; ; first += room - overlap) {
      const part = document.slice(first, first + room);
      windows.push({
        first,
        context: prefix.ids.length + asked.length + middle.ids.length,
        ids: [...prefix.ids, ...asked, ...middle.ids, ...part, ...suffix.ids],
        types: [
          ...prefix.types, ...asked.map(() => questionType), ...middle.types, ...part.map(() => contextType),
          ...suffix.types,
        ],
      });
      if (first + room >= document.length) return [windows, room];
    }
  }

  async #logits(ids, types) {
    const tensor = (values) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
    const inputs = {
      input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)), token_type_ids: tensor(types),
    };
    const { start_logits, end_logits } = await this.model(inputs);
    return { start_logits: start_logits.data, end_logits: end_logits.data };
  }

  // Return the characters of a span of tokens: without white space at its ends, and widened to whole words.
  #bounds(document, tokens, { first, last }) {
    const [begin, stop] = [tokens.of(first).start, tokens.of(last).end];
    const text = document.slice(begin, stop);
    let start = begin + text.length - text.trimStart().length;
    let end = stop - (text.length - text.trimEnd().length);
    if (start < end && this.options.align_to_words) {
      if (WORD_END.test(document.slice(start))) start -= (WORD_BEGIN.exec(document.slice(0, start)) ?? [""])[0].length;
      if (WORD_BEGIN.test(document.slice(0, end))) end += (WORD_END.exec(document.slice(end)) ?? [""])[0].length;
    }
    return { start, end };
  }
}

function idsOf(tokenizer, text) {
  return tokenizer.encode(text, { add_special_tokens: false });
}

/** The tokens of a text and their places in it, in UTF-16 units. */
export class Places {
  /**
   * @param {string} text The text; the white space before it is not tokenized.
   * @param tokenizer A tokenizer of transformers.js.
   */
  constructor(text, tokenizer) {
    this.tokenizer = tokenizer;
    const lead = text.length - text.trimStart().length;
    this.ids = idsOf(tokenizer, text.slice(lead));
    // Words with the white space before them are tokenized one by one, which is faster than beginnings of the whole text.
    this.pieces = [];
    let first = 0;
    for (const found of text.slice(lead).matchAll(/\s*\S+|\s+$/gu)) {
      const ids = idsOf(tokenizer, found[0]);
      this.pieces.push({ text: found[0], ids, first, at: lead + found.index });
      first += ids.length;
    }
    const joined = this.pieces.flatMap(({ ids }) => ids);
    if (joined.length !== this.ids.length || joined.some((id, place) => id !== this.ids[place])) {
      this.pieces = [{ text: text.slice(lead), ids: this.ids, first: 0, at: lead }];
    }
  }

  /**
   * Return where a token begins and ends: exactly, or with its neighbours if nothing tells where they part. A token of
   * white space ends where it begins.
   */
  of(token) {
    const piece = this.pieces.findLast(({ first, ids }) => first <= token && ids.length);
    piece.cuts ??= this.#cuts(piece);
    const own = token - piece.first;
    const before = piece.cuts.filter(({ tokens }) => tokens <= own).at(-1);
    if (!this.tokenizer.decode([this.ids[token]], { clean_up_tokenization_spaces: false }).trim()) {
      return { start: piece.at + before.at, end: piece.at + before.at };
    }
    const enough = Math.min(...piece.cuts.map(({ tokens }) => tokens).filter((tokens) => tokens > own));
    const behind = piece.cuts.filter(({ tokens }) => tokens === enough).at(-1);
    return { start: piece.at + before.at, end: piece.at + behind.at };
  }

  // Return the ends of the beginnings whose tokens are the piece's own, with the number of these tokens.
  #cuts({ text, ids }) {
    const cuts = [{ at: 0, tokens: 0 }];
    for (const { segment, index } of graphemes.segment(text)) {
      const at = index + segment.length;
      const beginning = at === text.length ? ids : idsOf(this.tokenizer, text.slice(0, at));
      if (beginning.every((id, place) => id === ids[place])) cuts.push({ at, tokens: beginning.length });
    }
    return cuts;
  }
}
