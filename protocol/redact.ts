/**
 * What is a secret in a text, by rule, for the health report that root makes and its unprivileged half carries away.
 * A rule rather takes too much than too little; what it took is counted, so that a reader knows that something stood
 * there. (The coordinator's own log has narrower rules in coordinator/secrets.ts: its words are what people look for.)
 * Pure, and linear in the length of the text.
 */

export type Redacted = { readonly text: string; readonly hits: Readonly<Record<string, number>> }

const HIDDEN = '***'
/** A word that names a secret, with what may stand before and after it in a name: `aws_secret_access_key`. */
const NAMED = '(?:password|passwd|passphrase|secret|token|credential|api[_-]?key|private[_-]?key)[A-Za-z0-9_.-]{0,40}'
const QUOTED = String.raw`"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'`

/** The first group, where a rule has one, is what stays. In this order: what takes the most stands first. */
const RULES: readonly (readonly [name: string, pattern: RegExp])[] = [
  [
    'private-key',
    /-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----/g,
  ],
  ['authorization', /(authorization["']?[ \t]{0,8}[:=]).*/gi],
  ['bearer', /\b(bearer[ \t]{1,8})[A-Za-z0-9+/_.~=-]{8,}/gi],
  ['basic', /\b(basic[ \t]{1,8})[A-Za-z0-9+/]{16,}={0,2}/gi],
  ['url-password', /(:\/\/)[^\s/?#'"<>]{1,512}@/g],
  ['netrc', /\b(login[ \t]{1,8}\S{1,256}[ \t]{1,8}password[ \t]{1,8})\S+/gi],
  [
    'named',
    new RegExp(`(${NAMED}["']?(?:[ \\t]{0,8}[:=][ \\t]{0,8}|[ \\t]{1,8}(?=["'])))(?:${QUOTED}|[^\\s"']+)`, 'gi'),
  ],
  ['option', new RegExp(`(--${NAMED}[ \\t]{1,8})(?:${QUOTED}|[^\\s"']+)`, 'gi')],
  ['option', /(\s(?:-u|--user|--proxy-user)[ \t]{1,8})[^\s:]{1,256}:\S+/g],
  ['slack-token', /xox[a-z]-[A-Za-z0-9-]{8,}|xapp-[A-Za-z0-9-]{8,}/g],
  ['aws-key', /(?:AKIA|ASIA)[A-Z0-9]{16}/g],
  ['smith-token', /smithp_[A-Za-z0-9_-]+|smith1\.[A-Za-z0-9_-]+/g],
  ['netbox-token', /\bnbt_[A-Za-z0-9]+(?:\.[A-Za-z0-9]+)?/g],
  ['forge-token', /gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}/g],
  ['json-web-token', /eyJ[A-Za-z0-9_-]{10,400}\.[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]*/g],
]

const KEY_BEGINS = /-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----/
const KEY_ENDS = /-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----/
/** A line of a key in the middle of a log: base64 at its end, whatever the log puts in front. */
const KEY_LINE = /[A-Za-z0-9+/]{16,}={0,2}\s*$/
/** So much follows a beginning without an end at most; a key of 16,384 bits has about 210 lines. */
const KEY_LINES_MAX = 500

/** `literals` are secrets that are known as such, wherever they stand. */
export function redact(text: string, literals: readonly string[] = []): Redacted {
  const hits: Record<string, number> = {}
  const count = (rule: string) => {
    hits[rule] = (hits[rule] ?? 0) + 1
  }
  let result = text
  for (const literal of literals) {
    const parts = result.split(literal)
    for (let n = 1; n < parts.length; n += 1) count('own-key')
    result = parts.join(HIDDEN)
  }
  for (const [name, pattern] of RULES)
    result = result.replaceAll(pattern, (_match: string, kept: unknown) => {
      count(name)
      return `${typeof kept === 'string' ? kept : ''}${HIDDEN}`
    })
  return { text: withoutKeys(result, () => count('private-key')), hits }
}

/** Private keys over several lines, also one whose beginning or end was cut off. */
function withoutKeys(text: string, onHit: () => void): string {
  if (!text.includes('PRIVATE KEY')) return text
  const lines = text.split('\n')
  let open = 0
  for (const [index, line] of lines.entries()) {
    const ends = KEY_ENDS.test(line)
    if (open > 0 || ends) {
      if (open === 0) {
        onHit()
        for (let at = index - 1; at >= 0 && KEY_LINE.test(lines[at] ?? ''); at -= 1) lines[at] = HIDDEN
      }
      open = ends ? 0 : open - 1
      lines[index] = HIDDEN
    } else if (KEY_BEGINS.test(line)) {
      onHit()
      open = KEY_LINES_MAX
      lines[index] = HIDDEN
    }
  }
  return lines.join('\n')
}
