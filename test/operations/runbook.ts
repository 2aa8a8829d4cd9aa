/**
 * docs/OPERATIONS.md as it is typed: each command of a section is run as it stands there, with the change, the machine
 * and the other words that stand for something replaced. Whoever types what is not there fails, and so does a file of
 * tests that leaves something of its sections untried.
 */
import { readFileSync, readdirSync } from 'node:fs'
import type { Test } from 'tap'
import type { Ended } from '../cli/run-cli.ts'
import { CHECKOUT } from '../demo/process.ts'
import { PROGRAMS, type Section, sectionsOf, wordsOf } from './document.ts'
import { type Instance, type Until, runProgram } from './instance.ts'

/** Who looks at what no test can. */
export const PERSON = 'looked at by a person'
export type Values = Readonly<Record<string, string>>
export type Typing = {
  /** What stands for something, by how it stands there; `web-2` is the name of a machine of the tests too. */
  readonly values?: Values
  /** Whose home and token; `socket` is the administrator on the coordinator's machine. */
  readonly by?: string
  /** Words that the text says belong to it. */
  readonly more?: readonly string[]
  readonly input?: string
  /** It stays until it has said something. */
  readonly ends?: Until
  readonly status?: number
}
export type Page = {
  /** Types a command of the section, and checks its exit status. */
  readonly type: (command: string, typing?: Typing) => Promise<Ended>
  /** What the section says is seen is in this text. */
  readonly sees: (seen: string, shown: string, values?: Values) => void
  /** A command or a sight of the section that another test tries, by the id of its rule, or a person. */
  readonly leave: (what: string, to: string) => void
}
export type Runbook = {
  readonly page: (t: Test, heading: string, instance?: Instance) => Page
  /** What of the sections of this file is untried, behind its heading. */
  readonly left: () => string[]
}

const REASON = 'because of the test'
export const SECTIONS = sectionsOf(readFileSync(`${CHECKOUT}docs/OPERATIONS.md`, 'utf8'))

/** The sections that a file of tests answers for. */
export function openRunbook(headings: readonly string[], sections: readonly Section[] = SECTIONS): Runbook {
  const tried = new Map<string, Set<string>>()
  const sectionNamed = (heading: string) => {
    const section = sections.find((one) => one.heading === heading)
    if (section === undefined || !headings.includes(heading)) throw new Error(`there is no section ${heading} here`)
    return section
  }
  return {
    page: (t, heading, instance) => {
      const section = sectionNamed(heading)
      const done = tried.get(heading) ?? new Set()
      tried.set(heading, done)
      return pageOf(t, section, done, instance)
    },
    left: () =>
      headings.flatMap((heading) => {
        const { commands, options, seen } = sectionNamed(heading)
        const left = [...commands, ...options, ...seen].filter((what) => tried.get(heading)?.has(what) !== true)
        return left.map((what) => `${heading}: ${what}`)
      }),
  }
}

function pageOf(t: Test, section: Section, done: Set<string>, instance: Instance | undefined): Page {
  const mark = (what: string, among: readonly string[]) => {
    if (!among.includes(what)) throw new Error(`"${section.heading}" does not say: ${what}`)
    done.add(what)
  }
  return {
    type: async (command, { values = {}, by = 'ana', more = [], status = 0, ...how } = {}) => {
      mark(command, section.commands)
      const replaced = (text: string) => wordsOf(text).map((word) => values[word] ?? (word === 'R' ? REASON : word))
      const words = [...replaced(command), ...more]
      for (const option of section.options) if (has(words, replaced(option))) done.add(option)
      const ended = await runProgram(homeOf(instance, by), reaching(words, by, instance), how)
      t.equal(ended.status, status, words.join(' '), { ended })
      return ended
    },
    sees: (seen, shown, values = {}) => {
      mark(seen, section.seen)
      t.match(shown, patternOf(seen, values), seen)
    },
    leave: (what, to) => {
      mark(what, [...section.commands, ...section.options, ...section.seen])
      t.ok(to === PERSON || isTested(to), `${what}: ${to} is the id of a test`)
    },
  }
}

function homeOf(instance: Instance | undefined, by: string): string {
  if (instance === undefined) return CHECKOUT
  return instance.home(by === 'socket' ? 'cy' : by).path
}

/** The administrator's socket stands elsewhere in a test than on a machine with the package. */
function reaching(words: readonly string[], by: string, instance: Instance | undefined): string[] {
  const [program = '', ...rest] = words
  const isOurs = PROGRAMS[0] === program
  return isOurs && by === 'socket' && instance !== undefined
    ? [program, '--socket', instance.socket, ...rest]
    : [program, ...rest]
}

function has(words: readonly string[], part: readonly string[]): boolean {
  return words.some((_, at) => part.every((word, index) => words[at + index] === word))
}

/** `...` is anything, and so is white space. */
export function patternOf(seen: string, values: Values = {}): RegExp {
  const shown = Object.entries(values).reduce((text, [word, value]) => text.replaceAll(word, value), seen)
  const parts = shown.split('...').map((part) =>
    part
      .replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`)
      .trim()
      .replaceAll(/\s+/g, String.raw`\s+`),
  )
  return new RegExp(parts.join('[^]*?'))
}

/** Whether a test of this tree begins with that id. */
function isTested(id: string): boolean {
  const folder = `${CHECKOUT}test`
  return readdirSync(folder, { recursive: true, encoding: 'utf8' }).some(
    (file) => file.endsWith('.test.ts') && readFileSync(`${folder}/${file}`, 'utf8').includes(`[${id}]`),
  )
}
