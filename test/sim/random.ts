/** One seeded 32-bit generator a concern (sfc32), so that a change in one concern leaves the draws of the others alone. */
export type Dice = {
  /** A whole number from 0 to `max - 1`. */
  readonly below: (max: number) => number
  readonly between: (least: number, most: number) => number
  readonly chance: (probability: number) => boolean
  readonly pick: <T>(items: readonly T[]) => T
  readonly bytes: (count: number) => Uint8Array
  readonly hex: (digits: number) => string
}

export function createDice(seed: number, concern: string): Dice {
  let a = 0x9e3779b9 ^ seed
  let b = 0x243f6a88 ^ Math.floor(seed / 2 ** 32)
  let c = 0xb7e15162
  let d = 1
  const next = (): number => {
    const t = (((a + b) | 0) + d) | 0
    d = (d + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = (c << 21) | (c >>> 11)
    c = (c + t) | 0
    return t >>> 0
  }
  for (const char of concern) {
    a ^= char.charCodeAt(0)
    next()
  }
  for (let round = 0; round < 15; round += 1) next()
  const below = (max: number) => Math.floor((next() / 2 ** 32) * max)
  const hex = (digits: number) => Array.from({ length: digits }, () => below(16).toString(16)).join('')
  return {
    below,
    between: (least, most) => least + below(most - least + 1),
    chance: (probability) => next() / 2 ** 32 < probability,
    pick: (items) => {
      const item = items[below(items.length)]
      if (item === undefined) throw new Error('nothing to pick from')
      return item
    },
    bytes: (count) => Uint8Array.from({ length: count }, () => below(256)),
    hex,
  }
}
