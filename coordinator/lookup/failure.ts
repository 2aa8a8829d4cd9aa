/** Why a source of machines gave no list. `message` goes on where its name ends: `inventory.example answers a web page`. */
export class LookupError extends Error {
  readonly remedy: string
  constructor(message: string, remedy: string, cause?: unknown) {
    super(message, { cause })
    this.name = 'LookupError'
    this.remedy = remedy
  }
}

/** A piece of what another system sent, for a message. */
export function quoted(value: unknown): string {
  const text = (typeof value === 'string' ? value : (JSON.stringify(value) ?? String(value))).replaceAll(
    /[\s\p{Cc}]+/gu,
    ' ',
  )
  return text.length > 120 ? `${text.slice(0, 117)}...` : text
}

export function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
