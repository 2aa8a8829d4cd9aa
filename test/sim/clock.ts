/** A clock that runs fast or slow, as every crystal does; what is due after so long by it is due a little off. */
import type { Time } from './time.ts'

/** Owns how far one machine's clock has gone. */
export class Clock {
  readonly #time: Time
  #rate = 1
  #since: { readonly at: number; readonly local: number }

  constructor(time: Time) {
    this.#time = time
    this.#since = { at: time.now(), local: time.now() }
  }

  /** Seconds shown for each that passes. */
  run(rate: number): void {
    this.#since = { at: this.#time.now(), local: this.#local() }
    this.#rate = rate
  }

  #local(): number {
    return this.#since.local + (this.#time.now() - this.#since.at) * this.#rate
  }
  /** Never goes back, whatever becomes of the rate. */
  monotonicNow(): number {
    return Math.floor(this.#local())
  }
  /** How far it is ahead by having run fast; nothing once it runs true, for then it is also set right. */
  driftMs(): number {
    return this.#rate === 1 ? 0 : this.#local() - this.#time.now()
  }
  after(ms: number): number {
    return Math.ceil(ms / this.#rate)
  }
}
