// Cache slots. A key is known by its position; the slot it lies in depends on the path through the batch.

// The slot of the key at `position` for a row with `mask`: committed keys lie at their position, the n-th
// ancestor in the batch counts as position committed + n.
fn cache_slot(position: u32, mask: u32, committed: u32) -> u32 {
    if (position < committed || mask == 0u) {
        return position;
    }
    var rest = mask;
    for (var n = committed; n < position; n++) {
        rest &= rest - 1u;
    }
    return committed + firstTrailingBit(rest);
}
