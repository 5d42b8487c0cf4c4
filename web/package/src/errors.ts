/** What can go wrong in a browser, and what to do about it. */

/** An error as it travels from the worker to the page. */
export interface PlainError {
  kind: string;
  message: string;
  advice?: string;
}

/** An error of a kind, with advice where there is any. */
export function plainError(kind: string, message: string, advice?: string): Error & PlainError {
  return Object.assign(new Error(message), { kind, advice });
}

const NO_WEBGPU =
  "use a current Chrome, Edge, Safari or Firefox; where WebGPU is behind a flag, switch it on (chrome://flags/#enable-unsafe-webgpu)";
const NO_ADAPTER =
  "switch on graphics acceleration in the browser's settings and update the GPU's driver; chrome://gpu or about:support say " +
  "why there is none. On Linux, Chrome may need chrome://flags/#enable-unsafe-webgpu";

const NOT_SECURE = "browsers give WebGPU to pages from https:// and from localhost only: serve this page from there";

/** What to do about errors of the core, by their kind. */
const ADVICE: Record<string, string> = {
  Adapter: NO_ADAPTER,
  OutOfMemory: "load a smaller model, ask for a shorter context, or close other pages and programs that use the GPU",
  Device: "reload the page; if it happens again, update the browser and the GPU's driver",
  SelfTest: 'update the browser and the GPU\'s driver, or load with other kernels: { kernels: "workgroup" }',
};

/** What to do about an error of this kind. */
export function adviceFor(kind: string): string | undefined {
  return ADVICE[kind];
}

interface Adapter {
  info?: { vendor: string; architecture: string; description: string };
}

/** The browser's adapter; undefined without WebGPU, null if there is none. */
export async function requestAdapter(): Promise<Adapter | null | undefined> {
  return (navigator as { gpu?: { requestAdapter(): Promise<Adapter | null> } }).gpu?.requestAdapter();
}

/** Refuses a browser without WebGPU, here where it is called: a worker may lack what the page has. */
export async function needWebGpu(): Promise<void> {
  const adapter = await requestAdapter();
  if (adapter === undefined) throw plainError("Adapter", "this browser has no WebGPU", isSecureContext ? NO_WEBGPU : NOT_SECURE);
  if (adapter === null) throw plainError("Adapter", "the browser has WebGPU, but no GPU to offer", NO_ADAPTER);
}
