/** Every command that the documents tell people to type is one that the programs take: its verb, options and words. */
import { readFileSync, readdirSync } from 'node:fs'
import { Writable } from 'node:stream'
import { type Command, CommanderError } from 'commander'
import t from 'tap'
import { buildProgram as buildAgent } from '../../agent/program.ts'
import { buildProgram as buildCli } from '../../coordinator/cli/program.ts'
import { buildProgram as buildCoordinator } from '../../coordinator/program.ts'
import { CHECKOUT } from '../demo/process.ts'
import { commandsIn } from '../operations/document.ts'

const TREES: Readonly<Record<string, () => Command>> = {
  smith: () => buildCli({ context: () => unused(), status: 0 }),
  'smith-agent': () => buildAgent(new Writable(), { status: 0 }),
  'smith-coordinator': () => buildCoordinator(),
}
const DOCUMENTS = [
  'README.md',
  ...readdirSync(`${CHECKOUT}docs`).flatMap((name) => (name.endsWith('.md') ? [`docs/${name}`] : [])),
]

/** Thrown where a verb that has others below it would begin its own work. */
class Begun extends Error {}

function unused(): never {
  throw new Begun()
}

/** What the program would say of these words, or null when it would do them; a verb alone may be just named. */
async function complaintOf([program = '', ...words]: readonly string[]): Promise<string | null> {
  const tree = TREES[program]?.()
  if (tree === undefined) return `there is no program ${program}`
  const isNamed = words.every((_, index) => commandAt(tree, words.slice(0, index + 1)) !== undefined)
  if (isNamed) return null
  const said: string[] = []
  let isDone = false
  for (const command of everyCommand(tree)) {
    command.exitOverride().configureOutput({ writeOut: (text) => said.push(text), writeErr: (text) => said.push(text) })
    if (command.commands.length === 0) command.action(() => void (isDone = true))
  }
  try {
    await tree.parseAsync([...words], { from: 'user' })
    return isDone ? null : 'it does nothing'
  } catch (error) {
    if (error instanceof Begun) return null
    if (!(error instanceof CommanderError)) throw error
    return error.exitCode === 0 ? null : said.join('')
  }
}

function commandAt(tree: Command, path: readonly string[]): Command | undefined {
  return path.reduce<Command | undefined>((at, name) => at?.commands.find((one) => one.name() === name), tree)
}

function everyCommand(command: Command): Command[] {
  return [command, ...command.commands.flatMap(everyCommand)]
}

t.test('[OPS-1] every command in the documents is one that its program takes', async (t) => {
  const counts = new Map<string, number>()
  for (const document of DOCUMENTS) {
    const found = commandsIn(readFileSync(`${CHECKOUT}${document}`, 'utf8'))
    counts.set(document, found.length)
    for (const { line, words } of found)
      t.equal(await complaintOf(words), null, `${document}:${line}: ${words.join(' ')}`)
  }
  t.ok((counts.get('docs/OPERATIONS.md') ?? 0) > 50, 'and they are found')
})

t.test('[OPS-1] a verb, an option or a word that there is not is found', async (t) => {
  for (const [text, complaint] of [
    ['Type `smith retyr CHG1 web-2`.', /unknown command/],
    ['Type `smith skip CHG1 web-2 --reason R --why R`.', /unknown option/],
    ['    smith pause --reason R', /missing required argument/],
    ['    smith schedule ad nightly', /unknown command/],
    ['    smith-agent enrol --token T', /required option/],
  ] as const) {
    const [found] = commandsIn(text)
    t.match((await complaintOf(found?.words ?? [])) ?? 'nothing', complaint, text)
  }
})
