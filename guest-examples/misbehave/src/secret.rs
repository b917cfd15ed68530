//! A secret to be left behind, and to be looked for.

/// The secret: computed, so that it stands nowhere in memory but where it is written on purpose.
fn secret(place: usize) -> u8 {
    let mixed = std::hint::black_box(place as u32).wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995;
    (mixed >> 13) as u8 | 1
}

const SECRET_BYTES: usize = 256;

/// Writes the secret all over memory that it takes for the purpose, and keeps.
pub fn fill() {
    let mut hoard = vec![0_u8; 4 << 20];
    for copy in hoard.chunks_exact_mut(SECRET_BYTES) {
        copy.iter_mut().enumerate().for_each(|(place, byte)| *byte = secret(place));
    }
    std::mem::forget(std::hint::black_box(hoard));
}

/// How often any 16 bytes of the secret are in all the memory there is, and in as much again as `fill` took.
pub fn scan() -> u32 {
    core::arch::wasm32::memory_grow::<0>((8 << 20) / 65536);
    let bytes = core::arch::wasm32::memory_size::<0>() * 65536;
    let mut found = 0_u32;
    let first = secret(0);
    let mut place = 16;
    while place + 16 < bytes {
        // SAFETY: within the linear memory, which is all this reads.
        let byte = |at: usize| unsafe { core::ptr::read_volatile(at as *const u8) };
        if byte(place) == first && (1..16).all(|next| byte(place + next) == secret(next)) {
            found += 1;
        }
        place += 1;
    }
    found
}
