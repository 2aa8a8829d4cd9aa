/**
 * What is a secret in a text, by rule, for the health report that root makes and its unprivileged half carries away.
 * A rule rather takes too much than too little; what it took is counted, so that a reader knows that something stood
 * there. (The coordinator's own log has narrower rules in coordinator/secrets.ts: its words are what people look for.)
 * Pure, and linear in the length of the text. What went through once comes through a second time as it is.
 */
import { endOfSecret, FORMS, type Form, HIDDEN, isPlain, LOG_PREFIX } from './secret-forms.ts'

export type Redacted = { readonly text: string; readonly hits: Readonly<Record<string, number>> }

/** Colours and the like (ECMA-48, CSI), as they are or already made visible: one may stand between a name and its value. */
// oxlint-disable-next-line no-control-regex -- escape is what begins them
const CONTROL = /(?:\u001b\[|\u009b|\\{1,8}(?:x1b|u001b|033|e)\[)[0-?]{0,64}[ -/]{0,8}[@-~]/gi
/** A line without any of these has no secret of any form; most lines have none, and so cost one look. */
const HINT =
  /pass|pwd|psk|secret|token|cred|key|author|bearer|basic|cookie|:\/\/|login|account|sig|(?:^|[ \t])-u|--user|--proxy-user|-pw\b|redis-cli|ldap|mysql|mariadb|identified|\bset\b|xox|xapp-|akia|asia|smithp_|smith1\.|nbt_|gh[pousr]_|github_pat_|gl[a-z]{2,5}-|k_live_|k_test_|npm_|hv[sbr]\.|aiza|ya29|dop_v1|pypi-|sg\.|eyj|\$[0-9a-z]|slack\.com|discord|office\.com/i

/** `literals` are secrets that are known as such, wherever they stand. */
export function redact(text: string, literals: readonly string[] = []): Redacted {
  const hits: Record<string, number> = {}
  const count = (rule: string) => {
    hits[rule] = (hits[rule] ?? 0) + 1
  }
  let result = text.replaceAll(CONTROL, '')
  for (const literal of literals) {
    const parts = result.split(literal)
    for (let n = 1; n < parts.length; n += 1) count('own-key')
    result = parts.join(HIDDEN)
  }
  const lines = withoutKeys(result.split('\n'), () => count('private-key'))
  const clean = withoutLogins(lines, () => count('netrc')).map((line) =>
    HINT.test(line) ? withoutForms(line, count) : line,
  )
  return { text: clean.join('\n'), hits }
}

function withoutForms(line: string, count: (rule: string) => void): string {
  let result = line
  for (const form of FORMS) result = withoutForm(result, form, count)
  return result
}

function withoutForm(line: string, form: Form, count: (rule: string) => void): string {
  const { head: pattern } = form
  let result = ''
  let at = 0
  pattern.lastIndex = 0
  for (let head = pattern.exec(line); head !== null; head = pattern.exec(line)) {
    const end = pattern.lastIndex
    const found = { line, head, end }
    if (form.isNone?.(found) === true) continue
    const from = form.reach === 'itself' ? head.index : end
    const to = endOfSecret(form, found)
    if (to <= from || line.slice(from, Math.min(to, from + 8)).trim() === HIDDEN) continue
    count(form.rule)
    result += `${line.slice(at, from)}${HIDDEN}`
    at = to
    pattern.lastIndex = to
  }
  return at === 0 ? line : result + line.slice(at)
}

const KEY_MARK = /-{4,5} ?(BEGIN|END) ([A-Z0-9 ]{0,60})-{4,5}/g
/** So much follows a beginning without an end at most; a key of 16,384 bits has about 210 lines. */
const KEY_LINES_MAX = 500

/** Private keys on one line or over several, also one whose beginning or end was cut off, or both. */
function withoutKeys(all: readonly string[], onHit: () => void): string[] {
  const lines = [...all]
  let open = 0
  for (const [index, line] of lines.entries()) {
    const marked = line.includes('----') ? marksOf(line) : null
    if (open === 0 && marked === null) continue
    const isOpened = marked?.isOpen === true
    if (open === 0) for (let n = 0; n < (marked?.keys ?? 0); n += 1) onHit()
    if (open === 0 && marked?.isEnd === true)
      for (let at = index - 1; at >= 0 && isKeyLine(lines[at] ?? ''); at -= 1) lines[at] = HIDDEN
    const isWhole = open > 0 || isOpened || marked?.isEnd === true
    lines[index] = isWhole ? HIDDEN : (marked?.text ?? line)
    open = isOpened ? KEY_LINES_MAX : marked?.isEnd === true ? 0 : Math.max(0, open - 1)
  }
  return withoutBodies(lines, onHit)
}

type Marked = {
  /** Without the keys that begin and end in the line. */
  readonly text: string
  readonly keys: number
  /** A key ends in the line that did not begin in it, or begins in it and does not end. */
  readonly isEnd: boolean
  readonly isOpen: boolean
}

function marksOf(line: string): Marked | null {
  let text = ''
  let at = 0
  let begun = -1
  let keys = 0
  let isEnd = false
  for (const { 0: mark, 1: kind, 2: label = '', index } of line.matchAll(KEY_MARK)) {
    if (!label.includes('PRIVATE KEY')) continue
    if (kind === 'BEGIN') {
      if (begun < 0) begun = index
      continue
    }
    keys += 1
    if (begun < 0) isEnd = true
    else text += `${line.slice(at, begun)}${HIDDEN}`
    at = index + mark.length
    begun = -1
  }
  const isOpen = begun >= 0
  if (keys === 0 && !isOpen) return null
  return { text: text + line.slice(at), keys: keys + (isOpen ? 1 : 0), isEnd, isOpen }
}

/** A line of a key in the middle of a log: base64 at its end, whatever the log puts in front. */
function isKeyLine(line: string): boolean {
  return /(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{16,}={0,2}$/.test(line.slice(-400).trimEnd())
}

/** A whole line of a key: no digest in hexadecimal has such a mixture, and no path so few slashes. */
function isBodyLine(line: string): boolean {
  const [body] = /(?<![A-Za-z0-9+/=])[A-Za-z0-9+/]{60,76}$/.exec(line.slice(-80).trimEnd()) ?? ['']
  return /[a-z]/.test(body) && /[A-Z]/.test(body) && /[0-9]/.test(body) && body.split('/').length <= 8
}

/** Lines of a key whose both ends were cut off; what begins as a certificate, signature or public key is none. */
function withoutBodies(lines: readonly string[], onHit: () => void): string[] {
  let open = 0
  let wasTaken = false
  return lines.map((line, index) => {
    const mark = line.includes('----') ? /-{4,5} ?(BEGIN|END) [A-Z0-9 ]{0,60}-{4,5}/.exec(line)?.[1] : undefined
    open = mark === undefined ? Math.max(0, open - 1) : mark === 'BEGIN' ? KEY_LINES_MAX : 0
    const isBody = open === 0 && isBodyLine(line) && (wasTaken || isBodyLine(lines[index + 1] ?? ''))
    // The last line of a key is shorter.
    const isTaken = isBody || (wasTaken && isKeyLine(line))
    if (isBody && !wasTaken) onHit()
    wasTaken = isBody
    return isTaken ? HIDDEN : line
  })
}

const LOGIN_PASSWORD = new RegExp(String.raw`^((?:${LOG_PREFIX})?\s{0,80}password[ \t]{1,8})(\S+)\s*$`)
const LOGIN = new RegExp(String.raw`^(?:${LOG_PREFIX})?\s{0,80}(?:machine|login|account|default)\b`)

/** netrc(5) over several lines. Alone on its line a word as of a sentence stays: `password expired`. */
function withoutLogins(lines: readonly string[], onHit: () => void): string[] {
  return lines.map((line, index) => {
    const [, kept = '', value = ''] = (line.includes('password') ? LOGIN_PASSWORD.exec(line) : null) ?? []
    if (value === '' || value === HIDDEN) return line
    const isLogin = [-2, -1, 1, 2].some((by) => LOGIN.test(lines[index + by] ?? ''))
    if (!isLogin && isPlain(value)) return line
    onHit()
    return `${kept}${HIDDEN}`
  })
}
