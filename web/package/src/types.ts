/** The types of the package's public API. */

/** Where a model comes from. */
export type Source =
  /** The model embedded in the package: small, and enough to try everything. */
  | { kind: "default" }
  /**
   * A folder in Hugging Face layout on a web server. Files are checked by their SHA-256 where the hub knows it or a file
   * `SHA256SUMS` lies beside them; `sha256` gives further ones (hex) by name.
   */
  | { kind: "url"; base: string; sha256?: Record<string, string> }
  /** Files picked or dropped; names come from `webkitRelativePath` without its first folder, or from `name`. */
  | { kind: "files"; files: Iterable<File> };

export type KernelSet = "workgroup" | "subgroup" | "software";

/** What matrices can be packed in as they are loaded. */
export type WeightFormat = "q4_0" | "q4_k" | "q6_k" | "q8_0";

/** What keys and values can be kept in. */
export type CacheType = "f32" | "f16";

export interface LoadOptions {
  /** Called with each step of loading. */
  onProgress?: (progress: Progress) => void;
  /** Gives up loading. */
  signal?: AbortSignal;
  /** The longest text in tokens, prompt included. Default: the model's own, at most 4096. */
  context?: number;
  /** The kernels to use. Default: those for software adapters on one, else those with workgroup memory. */
  kernels?: KernelSet;
  /**
   * Pack matrices as they are loaded: "q8_0" takes 8.5 bits a weight, about half the memory of F16, and makes it a slightly
   * different model. Default: as they are stored.
   */
  quantize?: WeightFormat;
  /** What keys and values are kept in: "f16" takes half the memory and may change texts. Default: "f32". */
  cacheType?: CacheType;
  /** Keep downloads for the next visit. Default: true. */
  cache?: boolean;
  /**
   * Called when the GPU's device was lost, with the reason. The model is then loaded again, from the cache where it is
   * there, `onProgress` tells how far that is, and the call under way goes on by itself: its text stays the same.
   */
  onLost?: (reason: string) => void;
}

/** Three separate reports. */
export type Progress =
  /** Bytes of a file; `cached` if they come from this browser's cache. */
  | { phase: "download"; file: string; done: number; total: number | null; cached: boolean }
  /** Bytes of tensors that are on the GPU. */
  | { phase: "upload"; done: number; total: number }
  /** Pipelines compiled, then ops that the driver has made ready. */
  | { phase: "warmup"; done: number; total: number };

export interface AdapterInfo {
  vendor: string;
  architecture: string;
  description: string;
  backend: "webgpu";
  /** Computes on the processor. */
  software: boolean;
  features: string[];
  limits: Record<string, number>;
  /** The sizes of subgroups, such as "32" or "8 to 32"; null without subgroups. */
  subgroup: string | null;
}

export interface ModelInfo {
  name: string;
  family: string;
  layers: number;
  hidden: number;
  vocab: number;
  /** Tokens a text can have. */
  context: number;
  parameters: number;
  /** The multi-token heads in use, nearest first, for people. */
  heads: string[];
  /** What the user should know: tensors that were ignored, fallbacks that were taken. */
  notes: string[];
  adapter: AdapterInfo;
  kernels: KernelSet;
}

export type Drafter = "auto" | "off" | "heads" | "lookup" | "marginal";

export interface GenerateOptions {
  /** The most tokens to add. Default: 256. */
  maxTokens?: number;
  /** 0, the default, always takes the likeliest token. */
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  /** The same seed draws the same text. Default: another one each time. */
  seed?: number;
  /** The text ends before the first of these. */
  stop?: string[];
  /** Where drafts come from. Default: "auto". No draft changes the text. */
  draft?: Drafter;
  /** Draft this many tokens a round, instead of as many as pay. */
  draftLen?: number;
  /** Draft a tree: children of each node by depth, such as "4,2,1". */
  draftTree?: string;
  /** Ends the text between rounds; the tokens so far stay. */
  signal?: AbortSignal;
}

/** One draft of a round, and what the target made of it. */
export interface Draft {
  id: number;
  text: string;
  /** The target's probability of it, given the drafts above it. */
  p: number;
  /** How many tokens the target found likelier. */
  rank: number;
  /** What the target chose in its place. */
  target: number;
  targetText: string;
  /** Whether it joined the text. */
  accepted: boolean;
}

/** What one round brought: accepted drafts first, the target's own token last. */
export interface Round {
  ids: number[];
  /** The text that may be shown now; empty while a character is incomplete. */
  text: string;
  /** How many of `ids`, from the first on, were drafted. */
  accepted: number;
  /** How many tokens were drafted. */
  drafted: number;
  drafts: Draft[];
}

/** "interrupt" after an abort. */
export type Stop = "eos" | "length" | "stop_text" | "interrupt";

/** What a generation took: the `stats` of `foretoken generate --json`. */
export interface Stats {
  prompt_tokens: number;
  new_tokens: number;
  prefill_s: number;
  decode_s: number;
  tokens_per_s: number;
  drafter: string;
  rounds: number;
  drafted: number;
  accepted: number;
  tokens_per_round: number;
  /** Rounds that accepted 0, 1, 2, ... drafts. */
  accepted_histogram: number[];
  acceptance: number[];
  rounds_per_submit: number;
  draft_s: number;
  verify_s: number;
  sync_s: number;
  off_reason: string | null;
  submits: number;
  passes: number;
  dispatches: number;
  readbacks: number;
  seed: number;
  /** How many times the GPU's device was lost on the way; the other numbers are of the time since. */
  recoveries: number;
}

/** The end of a generation. */
export type Finished = Stats & { stop: Stop; prompt_ids: number[]; ids: number[]; text: string };

/** A text being continued, round by round. Each loop over it sees all rounds; leaving one ends the text. */
export interface Generation extends AsyncIterable<Round> {
  /** Settles when the text has ended. */
  readonly result: Promise<Finished>;
}

export interface MarginalOptions {
  /** How many places ahead: 1 is the next token, 3 the most. Default: 2. */
  offset?: number;
  /** Sum over the likeliest tokens in between that together have this probability. Default: 0.99. */
  mass?: number;
  maxBranches?: number;
  /** How many of the likeliest tokens are listed. Default: 10. */
  top?: number;
}

/** A token of a distribution; the probability lies between `low` and `high` for certain. */
export interface TopToken {
  id: number;
  text: string | null;
  p: number;
  low: number;
  high: number;
}

/** As `foretoken marginals --json`, with the next token's distribution beside it. */
export interface Marginals {
  offset: number;
  mass_covered: number;
  branches: number;
  capped: boolean;
  top: TopToken[];
  entropy: number;
  cost: { rows: number; chunks: number; bytes: number };
  /** The likeliest tokens at offset 1. */
  next: TopToken[];
}

/** As `foretoken score --json`: `logprobs[i]` is the natural logarithm of the probability of `ids[i + 1]`. */
export interface Score {
  ids: number[];
  logprobs: number[];
  nll: number;
  bits_per_byte: number;
  tokens: number;
}

export interface AuditCase {
  drafter: string;
  tree: string;
  temperature: number;
  prompts: number;
  tokens: number;
  accepted: number;
  rounds: number;
  equal: boolean;
}

/** As `foretoken audit --json`. */
export interface Audit {
  model: string;
  adapter: string;
  kernels: string;
  equal: boolean;
  width_invariant: boolean;
  cases: AuditCase[];
  logits: { positions: number; widths: number[]; equal: boolean };
  first_difference: object | null;
}

/** A shader, as the browser's compiler gets it. */
export interface Shader {
  name: string;
  wgsl: string;
}

/** What the self-test saw of one kernel. */
export interface KernelCheck {
  /** The kernel and the case. */
  kernel: string;
  /** The kernel set it belongs to. */
  form: KernelSet;
  passed: boolean;
  error: number;
  tolerance: number;
}

/** A loaded model. Calls wait for each other; the page never freezes, as all work is done in a worker. */
export interface Model {
  readonly info: ModelInfo;
  generate(prompt: string, options?: GenerateOptions): Generation;
  marginals(prompt: string, options?: MarginalOptions): Promise<Marginals>;
  score(text: string): Promise<Score>;
  encode(text: string): Promise<number[]>;
  /** What one may not expect of the ids of a text: a start token twice, an end token behind it. */
  notes(ids: number[]): Promise<string[]>;
  decode(ids: number[]): Promise<string>;
  audit(options?: { onProgress?: (done: number, total: number) => void }): Promise<Audit>;
  selfTest(onCheck?: (check: KernelCheck) => void): Promise<KernelCheck[]>;
  /** Live GPU buffers, for leak tests; after `dispose` those that it left. */
  buffers(): Promise<number>;
  /** Resolves with the reason when the device is lost for good: it could not be had back. */
  readonly lost: Promise<string>;
  /** Frees the GPU's memory and ends the worker; calls under way fail. */
  dispose(): Promise<void>;
}

/** A model in the cache. */
export interface CacheEntry {
  /** The base URL it came from. */
  name: string;
  bytes: number;
}
