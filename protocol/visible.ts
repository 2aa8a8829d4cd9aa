/**
 * What in foreign text a terminal would act on, or what hides or reorders other text, and how it is shown instead.
 * Pure. The invariant: what leaves `visible` is one line that has no such character.
 */
/** A pattern for `replace`: it is global. */
export const UNSAFE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu

/** One line of foreign text, with control, bidi and invisible characters as escapes. A tab is harmless and stays. */
export function visible(text: string): string {
  return text.replace(UNSAFE, (character) => (character === '\t' ? character : escapeOf(character)))
}

function escapeOf(character: string): string {
  if (character === '\n') return String.raw`\n`
  if (character === '\r') return String.raw`\r`
  const code = character.codePointAt(0) ?? 0
  return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u{${code.toString(16)}}`
}
