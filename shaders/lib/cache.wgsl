// Where keys and values lie. A key is known by its position; its place depends on the path through the batch.

// The place of the key at `position` for a row with `mask`: committed keys lie at their position, the n-th ancestor in
// the batch counts as position committed + n. The slot of a place is `slot_of` it.
fn cache_place(position: u32, mask: u32, committed: u32) -> u32 {
    if (position < committed || mask == 0u) {
        return position;
    }
    var rest = mask;
    for (var n = committed; n < position; n++) {
        rest &= rest - 1u;
    }
    return committed + firstTrailingBit(rest);
}
