/** The SHA-256 that a source gives of its own files. */

/** An entry of the hub's list of a repository's files; large ones are stored by their hash. */
interface HubFile {
  path: string;
  lfs?: { oid: string };
}

/** A folder on the Hugging Face hub: host, repository, revision, path. */
const ON_HUB = /^(https:\/\/huggingface\.co)\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.*)$/;

/**
 * Hashes (hex) by file name: what the hub's list says, elsewhere a file `SHA256SUMS` beside the others, as the program
 * `sha256sum` writes it. Empty where the source gives none.
 */
export async function hashesOf(base: string): Promise<Record<string, string>> {
  const ask = async (url: string) => {
    const response = await fetch(url, { cache: "no-store" }).catch(() => null);
    return response?.ok ? response : null;
  };
  const hub = ON_HUB.exec(base);
  if (!hub) return parseSums((await (await ask(`${base}SHA256SUMS`))?.text()) ?? "");
  const [, host, repository, revision, path] = hub;
  const list = await ask(`${host}/api/models/${repository}/tree/${revision}/${path}`.replace(/\/$/, ""));
  const files: HubFile[] = (await list?.json().catch(() => null)) ?? [];
  return Object.fromEntries(files.flatMap((file) => (file.lfs ? [[file.path.slice(path!.length), file.lfs.oid]] : [])));
}

/** Lines of a hash, two spaces (or a space and an asterisk) and a name; other lines are nobody's. */
function parseSums(text: string): Record<string, string> {
  const lines = text.matchAll(/^([0-9a-f]{64}) [ *](?:\.\/)?(.+?)\r?$/gim);
  return Object.fromEntries([...lines].map(([, sha256, name]) => [name!, sha256!.toLowerCase()]));
}
