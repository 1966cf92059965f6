/* aditctl: the operator's view of a running aditd. All of it is in run.c, so that tests can call it. */
#include "ctl.h"

int main(int argc, char **argv)
{
	return ctl_run(argc, argv, stdout, stderr);
}
