/**
 * How a verb is hung into the command tree: its help with an example, and its action, which gets the context and
 * answers with the exit status. Called by every file beside this one, and by program.ts, which runs what was chosen.
 */
import type { Command } from 'commander'
import type { Context } from '../context.ts'

/** `status` is the exit status of the action that ran; program.ts reads it afterwards. */
export type Run = { readonly context: () => Context; status: number }
export type AddVerb = (parent: Command, run: Run) => void

/** Wraps an action so that its answer becomes the exit status. */
export function acting<Arguments extends unknown[]>(
  run: Run,
  action: (context: Context, ...args: Arguments) => Promise<number>,
): (...args: Arguments) => Promise<void> {
  return async (...args) => {
    run.status = await action(run.context(), ...args)
  }
}

export function example(command: Command, ...lines: string[]): Command {
  const plural = lines.length > 1 ? 'Examples' : 'Example'
  return command.addHelpText('after', `\n${plural}:\n${lines.map((line) => `  ${line}\n`).join('')}`.trimEnd())
}
