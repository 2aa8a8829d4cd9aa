/**
 * The forms in which secrets stand in a line of text: after a name (`DB_PASS=...`), after an option, in a header, in a
 * URL, or known by their own look. Each form has a head, which is looked for and stays, and says how much behind it
 * goes. Pure, and linear in the length of the line: a head is bounded, and what was read behind it is not read again.
 */

/** What stands behind the head: nothing more (the head itself goes), one value, or all that is left of the line. */
type Reach = 'itself' | 'value' | 'word' | 'rest'
type Found = { readonly line: string; readonly head: RegExpExecArray; readonly end: number }
export type Form = {
  readonly rule: string
  readonly head: RegExp
  readonly reach: Reach | ((found: Found) => Reach)
  /** True for what only looks like one, such as the name of a package with its architecture. */
  readonly isNone?: (found: Found) => boolean
}

/** An opening or closing quote, as it stands in text that was written as JSON any number of times. */
const QUOTE = String.raw`\\{0,15}["']`
const GAP = String.raw`[ \t]{1,8}`
/** What may have spaces in it, and so takes the rest of its line. */
const PHRASE = 'password|passwd|passphrase|secret'
const WORD =
  'token|credential|(?:api|private|pre-?shared|account|access|shared-?access|encryption|signing|master|storage)[_-]?key'
const NAMED = `(?:${PHRASE}|${WORD})[A-Za-z0-9_.-]{0,40}`
/** Words too short to be looked for inside others: a compass is no secret, and PWD is a folder. */
const SHORT = '(?<![A-Za-z])(?:pass|pwd|psk)(?![a-z])|(?<=[a-z])(?:Pass|Pwd)(?![a-z])'
const SEPARATOR = String.raw`(?:${QUOTE})?[ \t]{0,8}(?:[:=]=|=>|[:=])[ \t]{0,8}`

/** The longest value: text in quotes, whose end may have been cut off, else all up to a space. */
const VALUE = new RegExp(
  [
    String.raw`(?<slashes>\\{1,15})(?<quote>["'])(?:(?!(?<!\\)\k<slashes>\k<quote>)[^\n])*(?:\k<slashes>\k<quote>)?`,
    String.raw`"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'`,
    String.raw`["'][^\n]*`,
    String.raw`[^\s"']+(?:["'][^\s"',;)\]}>]+)*`,
  ].join('|'),
  'y',
)
const NON_SPACE = /\S+/y

export const FORMS: readonly Form[] = [
  { rule: 'authorization', head: new RegExp(`authorization${SEPARATOR}`, 'gi'), reach: 'rest' },
  { rule: 'cookie', head: new RegExp(`(?<![A-Za-z0-9_-])(?:set-)?cookie2?(?:${QUOTE})?:`, 'gi'), reach: 'rest' },
  {
    rule: 'option',
    head: new RegExp(`(?<![A-Za-z0-9])--?[A-Za-z0-9-]{0,20}(?:${NAMED}|(?<=-)(?:pass|pwd|pw))${GAP}(?=\\S)`, 'gi'),
    reach: 'value',
    isNone: ({ head }) => !head[0].startsWith('--') && !head[0].startsWith('-pass'),
  },
  { rule: 'option', head: /(?:^|\s)(?:-u|--user|--proxy-user)(?:[ \t]{1,8}|=)["']?[^\s:"']{1,256}:/g, reach: 'value' },
  { rule: 'option', head: /\bsshpass\b[^\n|;]{0,80}?[ \t]-p[ \t]{0,8}/g, reach: 'value' },
  { rule: 'option', head: /\b(?:mysql|mariadb)[a-z_-]{0,20}[ \t](?:[^\n|;]{0,200}?[ \t])?-p(?=\S)/g, reach: 'value' },
  {
    rule: 'option',
    head: /\b(?:redis-cli\b[^\n|;]{0,80}?[ \t]-a|ldap[a-z]{1,10}\b[^\n|;]{0,200}?[ \t]-w)[ \t]{1,8}/g,
    reach: 'value',
  },
  {
    rule: 'option',
    head: /\bidentified[ \t]{1,8}(?:with[ \t]{1,8}\S{1,64}[ \t]{1,8})?(?:by|as)[ \t]{1,8}(?=\\{0,15}["'])/gi,
    reach: 'value',
  },
  // debconf: a line of selections, and what a script says to it.
  {
    rule: 'debconf',
    head: /(?<![\w./+-])\w[\w.+-]{0,100}\/[\w./+-]{1,200}[ \t]{1,8}password[ \t]{1,8}(?=\S)/g,
    reach: 'rest',
  },
  {
    rule: 'debconf',
    head: /\bSET[ \t]{1,8}[\w./+-]{0,200}(?:pass|pw|secret|token|key)[\w./+-]{0,40}[ \t]{1,8}(?=\S)/gi,
    reach: 'rest',
  },
  {
    rule: 'netrc',
    head: /\b(?:machine|login|account)[ \t]{1,8}\S{1,256}[ \t]{1,8}(?:\S{1,64}[ \t]{1,8}\S{1,256}[ \t]{1,8}){0,2}?password[ \t]{1,8}/gi,
    reach: 'word',
  },
  { rule: 'netrc', head: /\bpassword[ \t]{1,8}(?=\S{1,256}[ \t]{1,8}(?:login|account|machine)[ \t])/gi, reach: 'word' },
  {
    rule: 'spoken',
    head: /\bpass(?:word|phrase)[ \t]{1,8}(?:is|was|set to)[ \t]{1,8}/gi,
    reach: 'value',
    isNone: ({ line, end }) => isPlain(wordAt(line, end)),
  },
  {
    rule: 'named',
    head: new RegExp(`(?:${NAMED})(?:${SEPARATOR}|${GAP}(?=${QUOTE}))`, 'gi'),
    reach: reachOfNamed,
    isNone: isNoneOfNamed,
  },
  // The case tells `dbPass` from `bypass`; of `PASS: name` tests are full, so there only small letters count.
  {
    rule: 'named',
    head: new RegExp(`(?:${SHORT}|(?<![A-Za-z])(?:PASS|PWD|PSK|Pass|Pwd|Psk)(?![A-Za-z]))${SEPARATOR}`, 'g'),
    reach: reachOfNamed,
    isNone: isNoneOfShort,
  },
  { rule: 'named', head: new RegExp(`<[A-Za-z0-9_:.-]{0,40}(?:${NAMED})>(?=[^<])`, 'gi'), reach: 'value' },
  { rule: 'spoken', head: /\btemporary password[^:\n]{0,80}:[ \t]{1,8}/gi, reach: 'rest' },
  {
    rule: 'bearer',
    head: /\bbearer[ \t]{1,8}(?=[A-Za-z0-9+/_.~=-]{8})/gi,
    reach: 'value',
    isNone: ({ line, end }) => /^[A-Za-z]{1,16}(?![A-Za-z0-9+/_.~=-])/.test(line.slice(end, end + 20)),
  },
  { rule: 'basic', head: /\bbasic[ \t]{1,8}(?=[A-Za-z0-9+/]{16})/gi, reach: 'value' },
  {
    rule: 'signed-url',
    head: /(?<![A-Za-z0-9_])(?:X-(?:Amz|Goog)-Signature|sig|signature)=(?=[^\s"'&]{8})/gi,
    reach: 'value',
  },
  { rule: 'url-password', head: /(?<=:\/\/)[^\s/?#'"<>]{1,512}@/g, reach: 'itself' },
  {
    rule: 'webhook',
    head: /(?<=hooks\.slack\.com\/)[a-z]{1,20}\/[^\s"'<>]+|(?<=discord(?:app)?\.com\/api\/webhooks\/)[^\s"'<>]+|(?<=webhook\.office\.com\/)[^\s"'<>]+/gi,
    reach: 'itself',
  },
  { rule: 'slack-token', head: /xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{8,}|xapp-[A-Za-z0-9-]{8,}/g, reach: 'itself' },
  { rule: 'aws-key', head: /(?:AKIA|ASIA)[A-Z0-9]{16}/g, reach: 'itself' },
  { rule: 'smith-token', head: /smithp_[A-Za-z0-9_-]+|smith1\.[A-Za-z0-9_-]+/g, reach: 'itself' },
  { rule: 'netbox-token', head: /\bnbt_[A-Za-z0-9]+(?:\.[A-Za-z0-9]+)?/g, reach: 'itself' },
  {
    rule: 'forge-token',
    head: /gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat|ffct)-[A-Za-z0-9_.-]{16,}/g,
    reach: 'itself',
  },
  {
    rule: 'service-token',
    head: /AGE-SECRET-KEY-1[A-Z0-9]{8,}|\b[sr]k_(?:live|test)_[A-Za-z0-9]{8,}|\bnpm_[A-Za-z0-9]{30,}|\bhv[sbr]\.[A-Za-z0-9_-]{8,}|\bAIza[A-Za-z0-9_-]{35}|\bya29\.[A-Za-z0-9_-]{20,}|\bdop_v1_[a-f0-9]{32,}|\bpypi-Ag[A-Za-z0-9_-]{20,}|\bSG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64}/g,
    reach: 'itself',
  },
  {
    rule: 'json-web-token',
    head: /eyJ[A-Za-z0-9_-]{10,400}\.[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]*/g,
    reach: 'itself',
  },
  // crypt(5), and what other programs made after it.
  {
    rule: 'password-hash',
    head: /\$(?:[1567]|2[abxy]|y|gy|sha1|apr1|scrypt|argon2(?:id|i|d))\$[A-Za-z0-9./$=,+-]{12,}/g,
    reach: 'itself',
  },
]

/** Where what goes has its end, from the end of the head on. */
export function endOfSecret(form: Form, found: Found): number {
  const { line, end } = found
  const reach = typeof form.reach === 'function' ? form.reach(found) : form.reach
  if (reach === 'itself') return end
  if (reach === 'rest') return line.length
  const pattern = reach === 'word' ? NON_SPACE : VALUE
  pattern.lastIndex = end
  return pattern.exec(line) === null ? end : pattern.lastIndex
}

/** What a log puts before the text of a line: that of the runs on the machine, and the journal's. */
export const LOG_PREFIX = String.raw`(?:\S{1,40} [0-9a-f]{32} [a-z-]{1,16} |[^\n]{0,200}\]: )`
const IS_WORD = new RegExp(`^(?:${WORD})`, 'i')
const IS_BEGINNING = new RegExp(String.raw`^(?:${LOG_PREFIX})?\s{0,80}(?:#\s{0,8}|export |-\s{0,8})?[\w.+-]{0,80}$`)

/** In a file of settings the value is the rest of the line; in an argument or a query it ends at the next space. */
function reachOfNamed({ line, head, end }: Found): Reach {
  if (IS_WORD.test(head[0]) || /^\\{0,15}["']/.test(line.slice(end, end + 16))) return 'value'
  if (/[ \t]$/.test(head[0])) return 'rest'
  return head.index <= 400 && IS_BEGINNING.test(line.slice(0, head.index)) ? 'rest' : 'value'
}

const ARCHITECTURE =
  /^(?:all|any|native|amd64|arm64|armel|armhf|i386|loong64|mips64el|mipsel|ppc64el|riscv64|s390x|x32)(?![A-Za-z0-9_-])/
const VERSION = /^(?:\d{1,2}:)?\d+(?:\.\d+)+[A-Za-z0-9.+~]*(?:-[A-Za-z0-9.+~]+)?(?=[\s,;:)"']|$)/
const RELATION = /^(?:(?:Pre-?)?Depends|Recommends|Suggests|Breaks|Conflicts|Replaces|Enhances):/
const ANSWER =
  /^(?:yes|no|true|false|none|null|on|off|enabled|disabled|required|omitted)(?=[)\]},.;\s]|$)[)\]},.;\s]*$/i
const UNIT = /\.(?:service|path|timer|socket|target|mount|scope|slice|device|postinst|preinst|postrm|prerm):?[ \t]*$/
/** Programs that begin with their name what they have to say, and what they say. */
const PROGRAM = /(?:^|[\s/])(?:ch|g|smb|ht|update-)?passwd:[ \t]$/
const COMPLAINT =
  /\b(?:password|passwd|user|group|account|authentication|permission|error|fail(?:ed|ure)|cannot|can't|could not|unable|warning|invalid|unrecognized|option|usage|no such|locked|lock file)\b/i

function isNoneOfNamed({ line, head, end }: Found): boolean {
  const value = line.slice(end, end + 200)
  const name = wordBefore(line, head.index) + head[0]
  if (value === '' || isHidden(value) || ANSWER.test(value)) return true
  if (RELATION.test(value) || UNIT.test(name)) return true
  const isPackage = /^[a-z0-9][a-z0-9+.-]*[:=]$/.test(name) && /-|^passwd/.test(name)
  if (/[a-z0-9]:$/.test(name) && (ARCHITECTURE.test(value) || value.startsWith('chauthtok'))) return true
  if (isPackage && name.endsWith('=') && VERSION.test(value)) return true
  // Of a file: what is wrong with it, or in which line. What grep prints has no space before the text.
  if (/^['"(]?\.{0,2}\/[^\s?=]*:[ \t]*$/.test(name)) return name.endsWith(' ') || /^\d+(?::|$)/.test(value)
  if (PROGRAM.test(name)) return value.trim().includes(' ') && COMPLAINT.test(value)
  // `Failed to set up credentials: Protocol error` says why; no token is made of words.
  return IS_WORD.test(head[0]) && head[0].endsWith(' ') && /^[A-Za-z]?[a-z]{1,15} [a-z]{1,15}(?=[\s.,:;]|$)/.test(value)
}

function isNoneOfShort(found: Found): boolean {
  const { line, head, end } = found
  const value = line.slice(end, end + 200)
  const before = line[head.index - 1] ?? ''
  const isAlone = !/[\w.-]/.test(before)
  if (value === '' || isHidden(value) || ANSWER.test(value)) return true
  if (isAlone && /^pwd/i.test(head[0]) && /^["']?\//.test(value)) return true
  if (!/^pass/i.test(head[0]) || !isAlone) return false
  return head[0].startsWith('P') && head[0].includes(':') ? true : /^\d{1,6}[%,.;)]?(?:\s|$)/.test(value)
}

export const HIDDEN = '***'

/** What was taken out before is not taken out again, so that it counts once. */
function isHidden(value: string): boolean {
  return /^\*\*\*(?=$|[\s"')\]}]|[,;](?:["'\s]|$))/.test(value)
}

/** The word up to here, at most so much of it. */
function wordBefore(line: string, index: number): string {
  return /[^\s"'=,(]*$/.exec(line.slice(Math.max(0, index - 120), index))?.[0] ?? ''
}

function wordAt(line: string, index: number): string {
  return /^\S*/.exec(line.slice(index, index + 200))?.[0] ?? ''
}

/** A word as it stands in a sentence: letters, with what a sentence puts around them. */
export function isPlain(word: string): boolean {
  return /^[("'[]*[A-Za-z-]*[)"'\].,:;!?]*$/.test(word)
}
