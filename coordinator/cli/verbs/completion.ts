/**
 * `completion` prints the script of a shell; the hidden `__complete` answers what that script asks. The latter never
 * fails loudly: an empty completion is the worst that may come of it.
 */
import type { Command } from 'commander'
import { MACHINE_NAME_PATTERN } from '../../../protocol/ids.ts'
import { SHELLS, completionScript } from '../completion.ts'
import { createClient } from '../../client/client.ts'
import { targetsOf } from '../config.ts'
import type { Context } from '../context.ts'
import { EXIT, usageError } from '../../client/failure.ts'
import { write } from '../io.ts'
import { type Run, acting, example } from './verb.ts'

const ANSWER_MS_MAX = 1500

export function addCompletion(parent: Command, run: Run): void {
  const completion = parent
    .command('completion')
    .description('print the completion script for a shell')
    .argument('<shell>', SHELLS.join(', '))
    .action(
      acting(run, async (context, text: string) => {
        const shell = SHELLS.find((one) => one === text)
        if (shell === undefined)
          throw usageError(`${text} is no shell that is known`, `Give one of ${SHELLS.join(', ')}.`)
        await write(context.io.stdout, completionScript(shell, parent))
        return EXIT.done
      }),
    )
  example(completion, 'source <(smith completion bash)')
  parent
    .command('__complete', { hidden: true })
    .argument('<kind>', 'machines, changes or schedules')
    .action(
      acting(run, async (context, kind: string) => {
        const words = await wordsOf(context, kind)
        if (words.length > 0) await context.out(words.join('\n'))
        return EXIT.done
      }),
    )
}

async function wordsOf(context: Context, kind: string): Promise<string[]> {
  try {
    const targets = targetsOf(context.io, { ...context.choice, timeoutMs: ANSWER_MS_MAX })
    const lists = await Promise.all(
      targets.map(async (target) => {
        const client = createClient(context.io, target)
        if (kind === 'machines') return (await client.call('machines')).machines.map((machine) => machine.name)
        if (kind === 'schedules') return (await client.call('schedules')).schedules.map(({ name }) => name)
        return (await client.call('projects')).projects.flatMap((project) => project.change ?? [])
      }),
    )
    // Only what can stand in a shell as it is; a name is never code.
    return lists.flat().filter((word) => MACHINE_NAME_PATTERN.test(word.toLowerCase()))
  } catch (error) {
    if (context.io.env['SMITH_COMPLETE_DEBUG'] === '1') throw error
    return []
  }
}
