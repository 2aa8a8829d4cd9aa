/**
 * `login`: makes an instance known to this person's CLI. The invariant: nothing is written before the coordinator
 * has answered with the pinned key, taken the token and said that it is the instance that was meant.
 */
import type { Command } from 'commander'
import { PIN_PATTERN } from '../../../protocol/pin.ts'
import { createClient } from '../../client/client.ts'
import { parseUrl } from '../../client/target.ts'
import { INSTANCE_PATTERN, configPath, readConfig, tlsTarget, writeConfig } from '../config.ts'
import type { Context } from '../context.ts'
import { ClientError, EXIT, usageError } from '../../client/failure.ts'
import { readSecret } from '../prompt.ts'
import { visible } from '../../client/text.ts'
import { type Run, acting, example } from './verb.ts'

export function addLogin(parent: Command, run: Run): void {
  const login = parent
    .command('login')
    .description('make a coordinator known to you; the token is asked for, or read from stdin')
    .requiredOption('--url <url>', 'its address: https://HOST:7600')
    .requiredOption('--pin <pin>', 'the pin of its key, as your admin told you')
    .action(acting(run, loginVerb))
  example(login, 'smith login --instance prod --url https://smith.example.org:7600 --pin PIN < TOKEN-FILE')
}

async function loginVerb(context: Context, options: { url: string; pin: string }): Promise<number> {
  const { io, choice } = context
  if (parseUrl(options.url) === null) {
    throw usageError(`${options.url} is no address of a coordinator`, 'Give it as https://HOST:7600.')
  }
  if (!PIN_PATTERN.test(options.pin)) {
    throw usageError('the pin is not 43 letters, digits, - and _', 'Copy it whole, as your admin told you.')
  }
  const path = configPath(io, choice.config)
  const config = readConfig(path) ?? {}
  const token = await readSecret(io, 'token')
  const instance = { url: options.url, pin: options.pin, token }
  const who = await createClient(io, tlsTarget(choice.instance ?? 'new', instance, choice.timeoutMs)).call('who')
  if (choice.instance !== undefined && choice.instance !== who.instance) {
    throw new ClientError(
      EXIT.refused,
      `${options.url} is the instance ${who.instance}, not ${choice.instance}; nothing was written`,
      `Type it with --instance ${visible(who.instance)}, or give the address of ${choice.instance}.`,
    )
  }
  if (!INSTANCE_PATTERN.test(who.instance)) {
    throw new ClientError(EXIT.refused, `${who.instance} is no name of an instance`, 'Ask whoever set it up.')
  }
  writeConfig(path, { ...config, instances: { ...config.instances, [who.instance]: instance } })
  if (context.json) await context.outJson(who)
  else {
    await context.out(`Logged in to ${who.instance} as ${visible(who.name)} (${who.roles.join(', ')}); kept in ${path}`)
  }
  return EXIT.done
}
