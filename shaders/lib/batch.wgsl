// What a forward pass works on: rows over a cache. See src/kernels/batch.rs, which a test compares with these.

struct Row {
    token: u32,
    position: u32,
    // Bit i: row i of this batch is an ancestor; a row's own bit is set. 0: every earlier row is one (prefill).
    mask: u32,
    // The token whose log-probability `log_probs` reports.
    target_token: u32,
    // 1: the adapters of a gated LoRA act on this row.
    adapter: u32,
}

struct State {
    // Tokens whose keys and values are in the cache.
    committed: u32,
    // Tokens of the text: the committed ones and the sampled one that has not been through the model.
    length: u32,
    // The text ends at this length.
    limit: u32,
    // 0 while running, else why the text ended: 1 end token, 2 limit, 3 logits that are not finite.
    done: u32,
    // Rows of this step.
    num_rows: u32,
    // The first row whose logits are wanted.
    logit_row: u32,
    // Ids emitted in this submit.
    emitted: u32,
    // Rounds of this submit that have ended.
    rounds: u32,
}
