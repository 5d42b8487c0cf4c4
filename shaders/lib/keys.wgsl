// The first position that `position` sees of a window of `window` positions, itself included.
fn first_key(position: u32, window: u32) -> u32 {
    return position + 1u - min(position + 1u, window);
}
