/** What the documents tell people to type and to look for, by the heading that it stands under. */

/** The programs whose commands are typed in full, with their words. */
export const PROGRAMS: readonly string[] = ['smith', 'smith-agent', 'smith-coordinator']
/** Those of others, on the coordinator's machine or the one that is patched. */
const OTHERS: readonly string[] = [
  ...['systemctl', 'journalctl', 'ps', 'cat', 'kill', 'ss', 'ip', 'df', 'apt-mark', 'dpkg', 'reboot', 'npm', 'node'],
]
/** Typed without a word, which as a rule is just the name of a program. */
const BARE: readonly string[] = ['df']
/** What the status says before the words that differ. */
const SEEN = /^(?:Waiting|Held|Lift|Now|Trouble|CHANGE|TO DO):/

export type Told = { readonly line: number; readonly words: string[] }
export type Section = {
  readonly heading: string
  /** As they stand there, each once. */
  readonly commands: readonly string[]
  /** Options that are named by themselves, with their value where one is given. */
  readonly options: readonly string[]
  /** What is seen, with `...` for what differs. */
  readonly seen: readonly string[]
}

/** What stands in `backquotes` on one line, or on an indented line of its own, and begins with one of our programs. */
export function commandsIn(text: string): Told[] {
  return text.split('\n').flatMap((line, index) =>
    [...spansOf(line), ...ownLine(line)]
      .map((command) => wordsOf(command))
      .filter(([program = '', ...rest]) => PROGRAMS.includes(program) && rest.length > 0)
      .map((words) => ({ line: index + 1, words })),
  )
}

function spansOf(line: string): string[] {
  return [...line.matchAll(/`([^`]+)`/g)].map((match) => match[1] ?? '')
}

function ownLine(line: string): string[] {
  const own = /^ {4}(?:\$ |# )?(smith\S* [a-z'].*)$/.exec(line)?.[1]
  return own === undefined ? [] : [own]
}

/** As a shell would see them, up to where it is another program's turn, or a comment's. */
export function wordsOf(command: string): string[] {
  const words = (command.match(/'[^']*'|"[^"]*"|\S+/g) ?? []).map((word) => word.replaceAll(/^['"]|['"]$/g, ''))
  const end = words.findIndex((word) => /^[<>|#&;]/.test(word))
  return end < 0 ? words : words.slice(0, end)
}

/** The sections of a document that tell people to type or to see something; a span may go on over the end of a line. */
export function sectionsOf(text: string): Section[] {
  const parts = text.split(/^#+ (.*)$/m).slice(1)
  const sections: Section[] = []
  for (let at = 0; at < parts.length; at += 2) {
    const body = (parts[at + 1] ?? '').replaceAll(/^```[^]*?^```$/gm, '')
    const spans = body.split(/\n\n|\n(?=[-|]|\d+\. )/).flatMap((block) => spansOf(block.replaceAll(/\s*\n\s*/g, ' ')))
    const commands = [...spans.filter(isCommand), ...body.split('\n').flatMap(ownLine).filter(isVerb).map(bare)]
    const seen = [...spans.filter((span) => SEEN.test(span)), ...seenAfterSee(body), ...seenInTables(body)]
    const section = {
      heading: parts[at] ?? '',
      commands: unique(commands),
      options: unique(spans.filter((span) => span.startsWith('--'))),
      seen: unique(seen.filter((span) => !isCommand(span))),
    }
    if (section.commands.length + section.options.length + section.seen.length > 0) sections.push(section)
  }
  return sections
}

function isCommand(span: string): boolean {
  const [program = '', ...rest] = wordsOf(span)
  return BARE.includes(span) || ([...PROGRAMS, ...OTHERS].includes(program) && rest.length > 0)
}

/** Not what a program prints of itself, which begins with its name and version. */
const isVerb = (line: string) => !/^smith\S* \d/.test(line)
const bare = (line: string) => line.replace(/\s+#.*$/, '')
const unique = (texts: readonly string[]) => [...new Set(texts)]

/** The span right after `See:`. */
function seenAfterSee(body: string): string[] {
  return [...body.matchAll(/^See: `([^`]+)`/gm)].map((match) => (match[1] ?? '').replaceAll(/\s*\n\s*/g, ' '))
}

/** The first column of a table whose heading is `see`. */
function seenInTables(body: string): string[] {
  const seen: string[] = []
  let isIn = false
  for (const line of body.split('\n')) {
    if (line.startsWith('| see |')) isIn = true
    else if (!line.startsWith('|')) isIn = false
    else if (isIn) seen.push(...spansOf(line.split(' | ')[0] ?? ''))
  }
  return seen
}
