// A cache that takes its slots anew once the last is taken: of a window, which looks back no further.
fn slot_of(place: u32, slots: u32) -> u32 {
    return place % slots;
}
